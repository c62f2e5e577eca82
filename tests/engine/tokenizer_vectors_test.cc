// Real vocabularies against the ids of llama.cpp.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/tokenizer.h"
#include "engine/utf8.h"
#include "tests/engine/tiny_tokenizer.h"
#include "tests/support/test_support.h"
#include "weightstore/pack/gguf_file.h"
#include "weightstore/pack/pack_writer.h"

namespace tidegate {
namespace {

using Ids = std::vector<TokenId>;

std::unique_ptr<Tokenizer> FromGguf(const std::string& relative) {
  const auto gguf = GgufFile::Open(SharedPath(relative));
  EXPECT_TRUE(gguf.ok()) << gguf.status();
  const auto data = TokenizerFromGguf(*gguf);
  EXPECT_TRUE(data.ok()) << data.status();
  return MakeTokenizer(*data);
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
                                         "qwen35"),
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
  constexpr char kModel[] = "data/models/tinystories-6M.f16.gguf";
  constexpr char kText[] = "data/text/tinystories-heldout.txt.gz";
  constexpr char kIds[] = "data/golden/demo.ids";
  TG_REQUIRE_SHARED(kModel);
  TG_REQUIRE_SHARED(kText);
  TG_REQUIRE_SHARED(kIds);
  const auto tokenizer = FromGguf(kModel);
  const Ids expected = ParseIds(ReadFileOrDie(SharedPath(kIds)));
  ASSERT_EQ(expected.size(), 8193u);
  const RunResult text = RunProgram({"gzip", "-dc", SharedPath(kText)});
  ASSERT_EQ(text.exit_code, 0) << text.err;
  Ids ids;
  for (absl::string_view story : absl::StrSplit(text.out, "<|endoftext|>")) {
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

}  // namespace
}  // namespace tidegate
