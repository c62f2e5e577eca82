// Byte-level vocabularies against the definition of their merges, applied word by word to the
// characters that the vocabulary is written in, as slowly as it reads: the best merge of all
// neighbours, again and again. Texts are what pre-tokenizers leave long: emoji with joiners, skin
// tones and flags, letters under many marks, scripts without spaces.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/tokenizer/pre_tokenizer.h"
#include "packer/source_model.h"
#include "packer/source_tokenizer.h"
#include "tests/engine/tokenizer/tiny_tokenizer.h"
#include "tests/support/test_support.h"

namespace tidegate::merge_oracle_test {

using Ids = std::vector<TokenId>;

// A vocabulary as its file writes it.
class Definition {
 public:
  explicit Definition(const store::v1::Tokenizer& data) : ignore_merges_(data.ignore_merges()) {
    auto words = PreTokenizer::Create(data);
    EXPECT_TRUE(words.ok()) << words.status();
    words_ = *std::move(words);
    for (int id = 0; id < data.tokens_size(); ++id) {
      if (data.types(id) == 1) ids_.emplace(data.tokens(id), id);
    }
    for (int i = 0; i < data.merges_size(); i += 2) {
      const std::string& left = data.tokens(static_cast<int>(data.merges(i)));
      const std::string& right = data.tokens(static_cast<int>(data.merges(i + 1)));
      if (ids_.count(left + right) > 0) ranks_.emplace(left + " " + right, i);
    }
    for (int byte = 0; byte < 256; ++byte) alphabet_.push_back(ByteLevelCharacter(byte));
  }

  Ids Encode(std::string_view text) const {
    Ids ids;
    words_->Split(text, [&](std::string_view word) { EncodeWord(word, ids); });
    return ids;
  }

 private:
  void EncodeWord(std::string_view word, Ids& out) const {
    std::vector<std::string> symbols;
    std::string whole;
    for (const char c : word) symbols.push_back(alphabet_[static_cast<unsigned char>(c)]);
    for (const std::string& symbol : symbols) whole += symbol;
    if (ignore_merges_ && ids_.count(whole) > 0) return out.push_back(ids_.at(whole));
    for (;;) {
      size_t best = symbols.size();
      int best_rank = 0;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto found = ranks_.find(symbols[i] + " " + symbols[i + 1]);
        if (found == ranks_.end()) continue;
        if (best < symbols.size() && found->second >= best_rank) continue;
        best = i;
        best_rank = found->second;
      }
      if (best == symbols.size()) break;
      symbols[best] += symbols[best + 1];
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    for (const std::string& symbol : symbols) out.push_back(ids_.at(symbol));
  }

  bool ignore_merges_;
  std::unique_ptr<PreTokenizer> words_;
  absl::flat_hash_map<std::string, TokenId> ids_;
  absl::flat_hash_map<std::string, int> ranks_;
  std::vector<std::string> alphabet_;
};

std::string Utf8(uint32_t character) {
  const auto tail = [&](int shift) {
    return static_cast<char>(0x80 | (character >> shift & 0x3f));
  };
  if (character < 0x80) return {static_cast<char>(character)};
  if (character < 0x800) return {static_cast<char>(0xc0 | character >> 6), tail(0)};
  if (character < 0x10000) return {static_cast<char>(0xe0 | character >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xf0 | character >> 18), tail(12), tail(6), tail(0)};
}

std::string RandomText(std::mt19937_64& rng) {
  // First and last character of each range, as often as they are listed.
  static constexpr std::pair<uint32_t, uint32_t> kRanges[] = {
      {' ', ' '},         {' ', ' '},         {0x200d, 0x200d},   {0xfe0f, 0xfe0f},
      {0x1f300, 0x1faff}, {0x1f300, 0x1faff}, {0x1f600, 0x1f64f}, {0x1f3fb, 0x1f3ff},
      {0x1f1e6, 0x1f1ff}, {0x2190, 0x27bf},   {0x20d0, 0x20f0},   {0x300, 0x36f},
      {0x300, 0x36f},     {'a', 'z'},         {'A', 'Z'},         {'0', '9'},
      {0x80, 0x24f},      {0x370, 0x52f},     {0x590, 0x6ff},     {0x900, 0xdff},
      {0xe00, 0xeff},     {0x1780, 0x17ff},   {0x3040, 0x30ff},   {0x4e00, 0x9fff},
      {0xac00, 0xd7a3},   {0x2000, 0x206f},   {0xe0020, 0xe007f}, {0x3000, 0x3000},
      {'\n', '\n'},       {'!', '/'},         {0x10000, 0x1ffff}, {0x1d400, 0x1d7ff}};
  std::string text;
  for (size_t length = 1 + rng() % 24; length > 0; --length) {
    const auto [first, last] = kRanges[rng() % std::size(kRanges)];
    text += Utf8(first + static_cast<uint32_t>(rng() % (last - first + 1)));
  }
  return text;
}

class MergeOracle : public testing::TestWithParam<const char*> {};

TEST_P(MergeOracle, AgreesOnRandomTexts) {
  const std::string file = absl::StrCat("data/tokenizers/ggml-vocab-", GetParam(), ".gguf");
  TG_REQUIRE_SHARED(file);
  const auto gguf = SourceModel::Open(SharedPath(file));
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const auto data = TokenizerOf(*gguf);
  ASSERT_TRUE(data.ok()) << data.status();
  const auto tokenizer = MakeTokenizer(*data);
  const Definition definition(*data);
  std::mt19937_64 rng(29);
  for (int round = 0; round < 150; ++round) {
    const std::string text = RandomText(rng);
    const Ids ids = tokenizer->Encode(text, false);
    ASSERT_EQ(ids, definition.Encode(text)) << "round " << round << ": " << absl::CHexEscape(text);
    ASSERT_EQ(tokenizer->Decode(ids), text) << "round " << round;
  }
}

INSTANTIATE_TEST_SUITE_P(All, MergeOracle,
                         testing::Values("command-r", "gpt-2", "llama-bpe", "qwen2", "qwen35"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::erase(name, '-');
                           return name;
                         });

// The same with vocabularies made here, the merges in any order. All characters that the texts
// consist of are tokens of their own besides, written as they are: merging never gives these.
TEST(MergeOracle, AgreesOnVocabulariesWithTokensOutsideTheirAlphabet) {
  constexpr uint32_t kFaces = 0x1f600, kFaceCount = 16;  // f0 9f 98 80 to 8f
  std::vector<std::pair<std::string, std::string>> merges = {
      {"\xf0", "\x9f"}, {"\xf0\x9f", "\x98"},     {" ", "\xf0"},    {" \xf0", "\x9f"},
      {"\x9f", "\x98"}, {" \xf0\x9f", "\x98"},    {"\xe2", "\x80"}, {"\xe2\x80", "\x8d"},
      {"\x80", "\x8d"}, {"\xe2\x80\x8d", "\xf0"}, {"\x8d", "\xf0"},
  };
  std::mt19937_64 rng(30);
  for (uint32_t i = 0; i < kFaceCount; ++i) {
    const std::string last = Utf8(kFaces + i).substr(3);
    merges.emplace_back("\xf0\x9f\x98", last);
    merges.emplace_back(" \xf0\x9f\x98", last);
    if (i % 3 == 0) merges.emplace_back("\x98", last);
  }
  for (int round = 0; round < 50; ++round) {
    store::v1::Tokenizer data = TinyByteLevel({});
    std::map<std::string, uint32_t> ids;
    const auto add = [&](const std::string& text) {
      ids.emplace(text, static_cast<uint32_t>(data.tokens_size()));
      data.add_tokens(text);
      data.add_types(1);
    };
    for (int byte = 0; byte < 256; ++byte)
      ids.emplace(data.tokens(byte), static_cast<uint32_t>(byte));
    add("\u200d");
    for (uint32_t i = 0; i < kFaceCount; ++i) add(Utf8(kFaces + i));
    std::shuffle(merges.begin(), merges.end(), rng);
    for (const auto& [left, right] : merges) {
      if (ids.count(ByteLevelText(left + right)) == 0) add(ByteLevelText(left + right));
    }
    for (const auto& [left, right] : merges) {
      data.add_merges(ids.at(ByteLevelText(left)));
      data.add_merges(ids.at(ByteLevelText(right)));
    }
    const auto tokenizer = MakeTokenizer(data);
    const Definition definition(data);
    for (int i = 0; i < 20; ++i) {
      std::string text;
      for (size_t length = 1 + rng() % 20; length > 0; --length) {
        text += std::vector<std::string>{
            " ", "\u200d", Utf8(kFaces + static_cast<uint32_t>(rng() % kFaceCount))}[rng() % 3];
      }
      ASSERT_EQ(tokenizer->Encode(text, false), definition.Encode(text))
          << "round " << round << ": " << absl::CHexEscape(text);
    }
  }
}

}  // namespace tidegate::merge_oracle_test
