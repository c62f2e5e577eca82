// The patterns that GGUF files name, applied: engine and packer meet here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/tokenizer/pre_tokenizer.h"
#include "packer/pre_tokenizers.h"
#include "tests/engine/tokenizer/tiny_tokenizer.h"

namespace tidegate::known_pre_tokenizers_test {

using testing::ElementsAre;

using Words = std::vector<std::string>;

const char* const kAll[] = {"default",        "gpt-2",     "llama-bpe", "dbrx",
                            "qwen2",          "qwen35",    "tekken",    "gpt-4o",
                            "deepseek-llm",   "falcon",    "starcoder", "deepseek-v3",
                            "deepseek-coder", "command-r", "smollm",    "deepseek-r1-qwen"};

std::unique_ptr<PreTokenizer> Make(const std::string& name) {
  const auto recipe = FindPreTokenizer(name);
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  store::v1::Tokenizer data;
  for (const char* pattern : recipe->patterns) AddPattern(data, pattern);
  auto pre_tokenizer = PreTokenizer::Create(data);
  EXPECT_TRUE(pre_tokenizer.ok()) << name << ": " << pre_tokenizer.status();
  return std::move(pre_tokenizer).value();
}

Words Split(const std::string& name, std::string_view text) {
  Words words;
  Make(name)->Split(text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

TEST(KnownPreTokenizers, CutNumbersEachInItsOwnWay) {
  const std::string text = "a 1234";
  EXPECT_THAT(Split("gpt-2", text), ElementsAre("a", " 1234"));
  EXPECT_THAT(Split("llama-bpe", text), ElementsAre("a", " ", "123", "4"));
  EXPECT_THAT(Split("gpt-4o", text), ElementsAre("a", " ", "123", "4"));
  EXPECT_THAT(Split("deepseek-v3", text), ElementsAre("a", " ", "123", "4"));
  for (const char* name : {"qwen2", "qwen35", "tekken", "starcoder", "command-r", "smollm"}) {
    EXPECT_THAT(Split(name, text), ElementsAre("a", " ", "1", "2", "3", "4")) << name;
  }
  EXPECT_THAT(Split("deepseek-coder", text), ElementsAre("a", " ", "1", "2", "3", "4"));
  EXPECT_THAT(Split("deepseek-llm", text), ElementsAre("a", " ", "1234"));
  EXPECT_THAT(Split("falcon", text), ElementsAre("a", " ", "123", "4"));
  EXPECT_THAT(Split("default", text), ElementsAre("a", " ", "123", "4"));
}

TEST(KnownPreTokenizers, CutWordsAndPunctuation) {
  const std::string text = "I'LL see!\n\n  ok";
  EXPECT_THAT(Split("gpt-2", text), ElementsAre("I", "'", "LL", " see", "!", "\n\n ", " ok"));
  EXPECT_THAT(Split("llama-bpe", text), ElementsAre("I", "'LL", " see", "!\n\n", " ", " ok"));
  EXPECT_THAT(Split("qwen2", text), ElementsAre("I", "'LL", " see", "!\n\n", " ", " ok"));
  EXPECT_THAT(Split("tekken", text), ElementsAre("I", "'LL", " see", "!\n\n", " ", " ok"));
  EXPECT_THAT(Split("gpt-4o", text), ElementsAre("I'LL", " see", "!\n\n", " ", " ok"));
  EXPECT_THAT(Split("deepseek-v3", text), ElementsAre("I", "'LL", " see", "!\n\n", " ", " ok"));
  EXPECT_THAT(Split("deepseek-llm", text),
              ElementsAre("I", "'", "LL", " see", "!", "\n", "\n", " ", " ok"));
  EXPECT_THAT(Split("falcon", text), ElementsAre("I", "'", "LL", " see", "!", "\n\n ", " ok"));
}

TEST(KnownPreTokenizers, CutCapitalsWhereTheModelDoes) {
  EXPECT_THAT(Split("tekken", "HelloWorld \u00e4\u00c4"),
              ElementsAre("Hello", "World", " \u00e4", "\u00c4"));
  EXPECT_THAT(Split("llama-bpe", "HelloWorld"), ElementsAre("HelloWorld"));
  EXPECT_THAT(Split("qwen35", "e\u0301e"), ElementsAre("e\u0301e"));
  EXPECT_THAT(Split("qwen2", "e\u0301e"), ElementsAre("e", "\u0301e"));
  EXPECT_THAT(Split("deepseek-v3", "a\u4e2d\u3042b"), ElementsAre("a", "\u4e2d\u3042", "b"));
  EXPECT_THAT(Split("deepseek-llm", "x  \u00e9\u4e2d "),
              ElementsAre("x", " ", " \u00e9", "\u4e2d", " "));
}

TEST(KnownPreTokenizers, KeepEveryByte) {
  const std::string text = "It's 12,345.67 \u00e4\u4e2d\u3042!?\r\n\t  \xff\xc3 <|end|>\u0301 ";
  for (const char* name : kAll) {
    std::string joined;
    for (const std::string& word : Split(name, text)) joined += word;
    EXPECT_EQ(joined, text) << name;
  }
}

// Quadratic work would take minutes: a million of each, no duration is asserted.
TEST(KnownPreTokenizers, TakeLongRunsOfAnything) {
  constexpr size_t kRun = size_t{1} << 20;
  std::string spaced;
  while (spaced.size() < kRun) spaced += std::string(1000, ' ') + "x";
  const std::string texts[] = {std::string(kRun, ' ') + "x",
                               std::string(kRun, '\n') + "x",
                               std::string(kRun, 'A'),
                               std::string(kRun, '1'),
                               std::string(kRun, '!') + "x",
                               std::string(kRun, '\t') + "\n x",
                               spaced};
  for (const char* name : kAll) {
    const auto pre_tokenizer = Make(name);
    for (const std::string& text : texts) {
      size_t bytes = 0;
      pre_tokenizer->Split(text, [&](std::string_view word) { bytes += word.size(); });
      EXPECT_EQ(bytes, text.size()) << name;
    }
  }
}

TEST(KnownPreTokenizers, UnknownNamesAreRefusedWithTheKnownOnes) {
  const absl::Status status = FindPreTokenizer("gpt-9\n").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              testing::AllOf(testing::HasSubstr("\"gpt-9\\n\""), testing::HasSubstr("tekken"),
                             testing::HasSubstr("llama-bpe")));
}

}  // namespace tidegate::known_pre_tokenizers_test
