#include "server/openai/answer.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/engine/tokenizer/tiny_tokenizer.h"

namespace tidegate::answer_test {

AnswerHead Head(bool is_chat, bool include_usage = false) {
  return {is_chat, "id-1", 5, "m \"1\"", {true, include_usage, false}};
}

constexpr char kChunkHead[] =
    R"({"id":"id-1","object":"chat.completion.chunk","created":5,"model":"m \"1\"","choices":[)";
constexpr char kTextHead[] =
    R"({"id":"id-1","object":"text_completion","created":5,"model":"m \"1\"","choices":[)";

TEST(AnswerTest, ChunksOfAChat) {
  const std::string head = kChunkHead;
  EXPECT_EQ(RoleChunk(Head(true), 0), head + R"({"index":0,"delta":{"role":"assistant",)"
                                             R"("content":""},"logprobs":null,)"
                                             R"("finish_reason":null}]})");
  EXPECT_EQ(TextChunk(Head(true), 1, "a\n", "null"),
            head + R"({"index":1,"delta":{"content":"a\n"},"logprobs":null,)"
                   R"("finish_reason":null}]})");
  EXPECT_EQ(FinishChunk(Head(true), 0, FinishReason::kStopString),
            head + R"({"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]})");
}

TEST(AnswerTest, UsageIsInTheLastChunkIfAsked) {
  GenerationAccounts accounts;
  accounts.prompt_tokens = 4;
  accounts.cached_prompt_tokens = 3;
  accounts.generated_tokens = 2;
  EXPECT_EQ(TextChunk(Head(false, true), 0, "a", "null"),
            kTextHead + std::string(R"({"index":0,"text":"a","logprobs":null,)"
                                    R"("finish_reason":null}],"usage":null})"));
  EXPECT_EQ(UsageChunk(Head(false, true), accounts),
            kTextHead + std::string(R"(],"usage":{"prompt_tokens":4,"completion_tokens":2,)"
                                    R"("total_tokens":6,"prompt_tokens_details":)"
                                    R"({"cached_tokens":3}}})"));
}

TEST(AnswerTest, WholeAnswers) {
  const std::string chat =
      AnswerJson(Head(true), ChoiceJson(Head(true), 0, "x", "null", FinishReason::kMaxTokens), {});
  EXPECT_EQ(chat, R"({"id":"id-1","object":"chat.completion","created":5,"model":"m \"1\"",)"
                  R"("choices":[{"index":0,"message":{"role":"assistant","content":"x",)"
                  R"("refusal":null},"logprobs":null,"finish_reason":"length"}],)"
                  R"("usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0,)"
                  R"("prompt_tokens_details":{"cached_tokens":0}}})");
  EXPECT_EQ(ChoiceJson(Head(false), 0, "x", "null", FinishReason::kEndOfText),
            R"({"index":0,"text":"x","logprobs":null,"finish_reason":"stop"})");
}

TEST(AnswerTest, LogprobsInBothShapes) {
  const auto tokenizer = MakeTokenizer(TinyVocabulary({{"\u2581a", -1}}));
  const TokenId id = tokenizer->Encode("a", false).front();
  const AnswerTokens tokens = {
      " a",
      {id},
      {{.logprob = -0.5, .top = {{id, -0.5}, {id, -std::numeric_limits<double>::infinity()}}}}};
  uint64_t offset = 7;
  const std::string token = R"("token":" a","logprob":-0.5,"bytes":[32,97])";
  const std::string never = R"("token":" a","logprob":-9999,"bytes":[32,97])";
  EXPECT_EQ(LogprobsJson(Head(true), *tokenizer, tokens, offset),
            R"({"content":[{)" + token + R"(,"top_logprobs":[{)" + token + "},{" + never +
                R"(}]}],"refusal":null})");
  EXPECT_EQ(offset, 7u);
  EXPECT_EQ(LogprobsJson(Head(false), *tokenizer, tokens, offset),
            R"({"tokens":[" a"],"token_logprobs":[-0.5],)"
            R"("top_logprobs":[{" a":-0.5," a":-9999}],"text_offset":[7]})");
  EXPECT_EQ(offset, 9u);
}

}  // namespace tidegate::answer_test
