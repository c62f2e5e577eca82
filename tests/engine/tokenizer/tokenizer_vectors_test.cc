// Real vocabularies against the ids of llama.cpp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/utf8.h"
#include "engine/tokenizer/tokenizer.h"
#include "packer/source_model.h"
#include "packer/source_tokenizer.h"
#include "tests/engine/tokenizer/tiny_tokenizer.h"
#include "tests/support/test_support.h"

namespace tidegate::tokenizer_vectors_test {

using Ids = std::vector<TokenId>;

std::unique_ptr<Tokenizer> FromGgufPath(const std::string& path) {
  const auto gguf = SourceModel::Open(path);
  EXPECT_TRUE(gguf.ok()) << gguf.status();
  const auto data = TokenizerOf(*gguf);
  EXPECT_TRUE(data.ok()) << data.status();
  return MakeTokenizer(*data);
}

std::unique_ptr<Tokenizer> FromGguf(const std::string& relative) {
  return FromGgufPath(SharedPath(relative));
}

Ids ParseIds(const std::string& text) {
  std::istringstream in(text);
  Ids ids;
  for (TokenId id; in >> id;) ids.push_back(id);
  return ids;
}

class TokenizerVectors : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerVectors, AgreeIdById) {
  const std::string file = absl::StrCat("data/tokenizers/ggml-vocab-", GetParam(), ".gguf");
  TG_REQUIRE_SHARED(file);
  const auto tokenizer = FromGguf(file);
  const std::vector<std::string> texts =
      absl::StrSplit(ReadFileOrDie(SharedPath(file + ".inp")), "\n__ggml_vocab_test__\n");
  const std::vector<std::string> lines =
      absl::StrSplit(ReadFileOrDie(SharedPath(file + ".out")), '\n');
  ASSERT_EQ(texts.size(), lines.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const Ids ids = tokenizer->Encode(texts[i], false);
    EXPECT_EQ(ids, ParseIds(lines[i])) << "text " << i << ": " << texts[i];
    EXPECT_EQ(tokenizer->Decode(ids), texts[i]) << "text " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerVectors,
                         testing::Values("llama-spm", "phi-3", "gpt-2", "llama-bpe", "qwen2",
                                         "qwen35", "command-r"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST(TokenizerVectors, PhiTakesItsUserDefinedTokenWhole) {
  constexpr char kFile[] = "data/tokenizers/ggml-vocab-phi-3.gguf";
  TG_REQUIRE_SHARED(kFile);
  const auto tokenizer = FromGguf(kFile);
  // "</s>" (2) is user-defined there, "<|end|>" (32007) is a control token.
  EXPECT_THAT(tokenizer->Encode("a</s>", false), testing::Contains(2));
  EXPECT_THAT(tokenizer->Encode("a<|end|>", false), testing::Not(testing::Contains(32007)));
}

TEST(TokenizerDemoModel, GivesTheGoldenIdsOfTheHeldOutText) {
  const auto tokenizer = FromGgufPath(DemoModelPath());
  const Ids expected = ParseIds(ReadFileOrDie(SourcePath("tests/testdata/demo.ids")));
  ASSERT_EQ(expected.size(), 8193u);
  const std::string text = ReadFileOrDie(ModelPath("tinystories-heldout.txt"));
  Ids ids;
  for (absl::string_view story : absl::StrSplit(text, "<|endoftext|>")) {
    story = absl::StripAsciiWhitespace(story);
    if (story.empty()) continue;
    const Ids part = tokenizer->Encode({story.data(), story.size()}, false);
    EXPECT_EQ(tokenizer->Decode(part), std::string(story));
    ids.push_back(tokenizer->bos_id());
    ids.insert(ids.end(), part.begin(), part.end());
    ids.push_back(tokenizer->eos_id());
  }
  ASSERT_GE(ids.size(), expected.size());
  ids.resize(expected.size());
  EXPECT_EQ(ids, expected);
}

}  // namespace tidegate::tokenizer_vectors_test
