// A small vocabulary made by hand, for tests that need a tokenizer and no file.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "engine/tokenizer/tokenizer.h"

namespace tidegate {

inline constexpr TokenId kTinyUnknown = 0, kTinyBos = 1, kTinyEos = 2;
inline constexpr TokenId kTinyFirstByte = 3;  // the token of byte b is kTinyFirstByte + b
inline constexpr TokenId kTinyFirstPiece = kTinyFirstByte + 256;

inline void AddToken(store::v1::Tokenizer& data, const std::string& text, float score,
                     uint32_t type) {
  data.add_tokens(text);
  data.add_scores(score);
  data.add_types(type);
}

// "<unk>", "<s>", "</s>", the 256 byte tokens, then `pieces` with their scores. BOS and a space are
// put in front, EOS is not put behind.
inline store::v1::Tokenizer TinyVocabulary(
    const std::vector<std::pair<std::string, float>>& pieces) {
  store::v1::Tokenizer data;
  data.set_model("llama");
  AddToken(data, "<unk>", 0, 2);
  AddToken(data, "<s>", 0, 3);
  AddToken(data, "</s>", 0, 3);
  for (int byte = 0; byte < 256; ++byte) {
    AddToken(data, absl::StrCat("<0x", absl::Hex(byte, absl::kZeroPad2), ">"), 0, 6);
  }
  for (const auto& [text, score] : pieces) AddToken(data, text, score, 1);
  data.set_bos_id(kTinyBos);
  data.set_eos_id(kTinyEos);
  data.set_unknown_id(kTinyUnknown);
  data.set_add_bos(true);
  data.set_add_space_prefix(true);
  return data;
}

// One character per byte, as byte-level vocabularies write them.
inline std::string ByteLevelCharacter(int byte) {
  const auto stands_for_itself = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  int character = byte;
  if (!stands_for_itself(byte)) {
    character = 256;
    for (int b = 0; b < byte; ++b) character += !stands_for_itself(b);
  }
  if (character < 128) return std::string(1, static_cast<char>(character));
  return {static_cast<char>(0xc0 | character >> 6), static_cast<char>(0x80 | (character & 63))};
}

inline std::string ByteLevelText(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) text += ByteLevelCharacter(static_cast<unsigned char>(c));
  return text;
}

// Byte-level BPE: token b is byte b, then one token for each merge "left right" of plain bytes, the
// best first ("_" stands for a space). Texts are not cut unless a pattern is added.
inline store::v1::Tokenizer TinyByteLevel(
    const std::vector<std::pair<std::string, std::string>>& merges) {
  store::v1::Tokenizer data;
  data.set_model("gpt2");
  std::map<std::string, uint32_t> ids;
  const auto add = [&](const std::string& bytes) {
    ids.emplace(bytes, static_cast<uint32_t>(data.tokens_size()));
    data.add_tokens(ByteLevelText(bytes));
    data.add_types(1);
  };
  const auto spaced = [](std::string text) {
    std::replace(text.begin(), text.end(), '_', ' ');
    return text;
  };
  for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
  for (const auto& [left, right] : merges) {
    data.add_merges(ids.at(spaced(left)));
    data.add_merges(ids.at(spaced(right)));
    if (ids.count(spaced(left + right)) == 0) add(spaced(left + right));
  }
  return data;
}

inline void AddPattern(store::v1::Tokenizer& data, const std::string& pattern,
                       store::v1::SplitStep::Cut cut = store::v1::SplitStep::CUT_ISOLATED) {
  store::v1::SplitStep& step = *data.add_split_steps();
  step.set_pattern(pattern);
  step.set_cut(cut);
}

inline std::unique_ptr<Tokenizer> MakeTokenizer(const store::v1::Tokenizer& data) {
  auto tokenizer = Tokenizer::Create(data);
  CHECK(tokenizer.ok());
  return std::move(tokenizer).value();
}

}  // namespace tidegate
