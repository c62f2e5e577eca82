// A small vocabulary made by hand, for tests that need a tokenizer and no file.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "engine/tokenizer.h"

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

inline std::unique_ptr<Tokenizer> MakeTokenizer(const store::v1::Tokenizer& data) {
  auto tokenizer = Tokenizer::Create(data);
  CHECK(tokenizer.ok());
  return std::move(tokenizer).value();
}

}  // namespace tidegate
