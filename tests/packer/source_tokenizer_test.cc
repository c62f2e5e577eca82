// TokenizerOf(): byte-level vocabularies and what texts of tokens give away.
#include "packer/source_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "packer/source_model.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::source_tokenizer_test {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class GgufTokenizerTest : public testing::Test {
 protected:
  GgufTokenizerTest() {
    gguf_.SetString("general.architecture", "llama");
    gguf_.SetString("tokenizer.ggml.model", "gpt2");
    gguf_.SetString("tokenizer.ggml.pre", "llama-bpe");
    gguf_.SetStrings("tokenizer.ggml.tokens",
                     {"a", "b", "ab", "<|im_start|>", "<|im_end|>", "<think>", "<s>"});
    gguf_.SetInt32s("tokenizer.ggml.token_type", {1, 1, 1, 4, 4, 4, 3});
    gguf_.SetStrings("tokenizer.ggml.merges", {"a b"});
    gguf_.SetUint32("tokenizer.ggml.bos_token_id", 6);
  }

  absl::StatusOr<store::v1::Tokenizer> Read() {
    gguf_.WriteTo(dir_.File("vocab.gguf"));
    const auto file = SourceModel::Open(dir_.File("vocab.gguf"));
    if (!file.ok()) return file.status();
    return TokenizerOf(*file);
  }

  TempDir dir_;
  GgufBuilder gguf_;
};

TEST_F(GgufTokenizerTest, ReadsMergesAndPatterns) {
  gguf_.SetBool("tokenizer.ggml.add_space_prefix", true);  // means nothing here
  const auto tokenizer = Read();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->pre(), "llama-bpe");
  EXPECT_THAT(tokenizer->merges(), ElementsAre(0, 1));
  EXPECT_TRUE(tokenizer->ignore_merges());
  EXPECT_TRUE(tokenizer->add_bos()) << "as Llama 3 does where the file does not say";
  EXPECT_FALSE(tokenizer->add_space_prefix());
  ASSERT_EQ(tokenizer->split_steps_size(), 1);
  EXPECT_THAT(tokenizer->split_steps(0).pattern(), HasSubstr("\\p{N}{1,3}"));
  EXPECT_EQ(tokenizer->scores_size(), 0);
}

TEST_F(GgufTokenizerTest, TakesMarkupForControlTokens) {
  const auto tokenizer = Read();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(tokenizer->types(), ElementsAre(1, 1, 1, 3, 3, 4, 3));
  EXPECT_THAT(tokenizer->end_ids(), ElementsAre(4));
  EXPECT_THAT(tokenizer->strip_right_ids(), IsEmpty());
}

TEST_F(GgufTokenizerTest, UsesTheDefaultPatternsWhereTheFileNamesNone) {
  gguf_.Remove("tokenizer.ggml.pre");
  const auto tokenizer = Read();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->pre(), "default");
  EXPECT_FALSE(tokenizer->ignore_merges());
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_EQ(tokenizer->split_steps_size(), 4);
}

TEST_F(GgufTokenizerTest, TokensOfPhi3SwallowWhiteSpace) {
  gguf_.SetString("general.name", "Phi-3-mini");
  gguf_.SetString("tokenizer.ggml.model", "llama");
  const auto tokenizer = Read();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(tokenizer->strip_right_ids(), ElementsAre(3, 4, 5)) << "not <s>";
  EXPECT_THAT(tokenizer->merges(), IsEmpty());
}

// As llama.cpp's files name them; the named templates count too.
TEST_F(GgufTokenizerTest, MakesMarkupOfTemplatesAndEndsOfMessagesSpecial) {
  gguf_.SetStrings("tokenizer.ggml.tokens", {"a", "b", "ab", "<|x|>", "<eom>", "<|t|>", "<|z|>"});
  gguf_.SetInt32s("tokenizer.ggml.token_type", {1, 1, 1, 1, 1, 1, 1});
  gguf_.Remove("tokenizer.ggml.bos_token_id");
  gguf_.SetUint32("tokenizer.ggml.eom_token_id", 4);
  gguf_.SetString("tokenizer.chat_template", "{{ '<|x|>' }}");
  gguf_.SetString("tokenizer.chat_template.tool_use", "<|t|>");
  const auto tokenizer = Read();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(tokenizer->types(), ElementsAre(1, 1, 1, 3, 3, 3, 1));
  EXPECT_THAT(tokenizer->end_ids(), ElementsAre(4));
}

TEST_F(GgufTokenizerTest, NamesWhatIsWrong) {
  struct Case {
    const char* message;
    std::function<void(GgufBuilder&)> spoil;
  };
  const Case cases[] = {
      {"pre-tokenizer \"nonesuch\"",
       [](auto& g) { g.SetString("tokenizer.ggml.pre", "nonesuch"); }},
      {"tokenizer.ggml.pre", [](auto& g) { g.SetUint32("tokenizer.ggml.pre", 1); }},
      {"merges is missing", [](auto& g) { g.Remove("tokenizer.ggml.merges"); }},
      {"merges is not an array", [](auto& g) { g.SetString("tokenizer.ggml.merges", "a b"); }},
      {"merge 1 is \"a c\"",
       [](auto& g) {
         g.SetStrings("tokenizer.ggml.merges", {"a b", "a c"});
       }},
      {"merge 0 is \"ab \"", [](auto& g) { g.SetStrings("tokenizer.ggml.merges", {"ab"}); }},
      {"merge 0 is \" \"", [](auto& g) { g.SetStrings("tokenizer.ggml.merges", {""}); }},
      {"merge 0 is \"  \"", [](auto& g) { g.SetStrings("tokenizer.ggml.merges", {" "}); }},
  };
  for (const Case& c : cases) {
    const GgufBuilder good = gguf_;
    c.spoil(gguf_);
    const absl::Status status = Read().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
    gguf_ = good;
  }
}

}  // namespace tidegate::source_tokenizer_test
