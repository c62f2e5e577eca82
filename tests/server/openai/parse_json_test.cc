#include "server/openai/parse_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace tidegate::parse_json_test {

using testing::ElementsAre;
using testing::HasSubstr;

struct Chat {
  absl::Status status;
  v1::ChatRequest request;
  AnswerOptions options;
};

// A chat with one message and these further members.
Chat ParseChat(const std::string& members) {
  Chat chat;
  const std::string body = R"({"messages":[{"role":"user","content":"hi"}])" + members + "}";
  chat.status = ParseChatJson(body, chat.request, chat.options);
  return chat;
}

struct Completion {
  absl::Status status;
  v1::GenerateRequest request;
  AnswerOptions options;
};

Completion ParseCompletion(const std::string& body) {
  Completion completion;
  completion.status = ParseCompletionJson(body, completion.request, completion.options);
  return completion;
}

TEST(ParseJsonTest, TakesWhatClientsSend) {
  const Chat chat = ParseChat(R"(,"model":"m","max_completion_tokens":7,"temperature":0.5,
      "top_p":0.9,"frequency_penalty":1,"presence_penalty":-1,"seed":-1,"stop":["a","b"],
      "logit_bias":{"5":-100},"logprobs":true,"top_logprobs":3,"stream":true,
      "stream_options":{"include_usage":true},"user":"u","n":1,"tools":[],"tool_choice":"none",
      "response_format":{"type":"text"},"store":false,"metadata":null,"no_such_field":[1])");
  ASSERT_TRUE(chat.status.ok()) << chat.status;
  const v1::ChatRequest& request = chat.request;
  ASSERT_EQ(request.messages_size(), 1);
  EXPECT_EQ(request.messages(0).role(), "user");
  EXPECT_EQ(request.messages(0).content(), "hi");
  EXPECT_EQ(request.model(), "m");
  EXPECT_EQ(request.max_tokens(), 7u);
  EXPECT_EQ(request.sampling().temperature(), 0.5f);
  EXPECT_EQ(request.sampling().top_p(), 0.9f);
  EXPECT_EQ(request.sampling().frequency_penalty(), 1);
  EXPECT_EQ(request.sampling().presence_penalty(), -1);
  EXPECT_EQ(request.sampling().seed(), ~uint64_t{0});
  EXPECT_EQ(request.sampling().logit_bias().at(5), -100);
  EXPECT_FALSE(request.sampling().has_top_k());
  EXPECT_THAT(request.stop().strings(), ElementsAre("a", "b"));
  EXPECT_EQ(request.top_logprobs(), 3u);
  EXPECT_TRUE(request.progress());
  EXPECT_TRUE(chat.options.stream && chat.options.include_usage && chat.options.logprobs);
}

TEST(ParseJsonTest, TakesWhatOtherServersAdd) {
  const Chat chat = ParseChat(R"(,"top_k":-1,"min_p":0.1,"repetition_penalty":1.1,"min_tokens":2,
      "ignore_eos":true,"stop_token_ids":[3],"include_stop_str_in_output":true,"priority":-4,
      "cache_salt":"s","stop":"x","pruning":{"mode":"dip","density":0.5,"reproducible":true})");
  ASSERT_TRUE(chat.status.ok()) << chat.status;
  EXPECT_EQ(chat.request.sampling().top_k(), 0u);
  EXPECT_TRUE(chat.request.sampling().has_top_k());
  EXPECT_EQ(chat.request.stop().min_tokens(), 2u);
  EXPECT_TRUE(chat.request.stop().ignore_eos());
  EXPECT_THAT(chat.request.stop().token_ids(), ElementsAre(3));
  EXPECT_THAT(chat.request.stop().strings(), ElementsAre("x"));
  EXPECT_EQ(chat.request.priority(), -4);
  EXPECT_EQ(chat.request.cache_salt(), "s");
  EXPECT_EQ(chat.request.pruning().mode(), v1::DECODE_MODE_DIP);
  EXPECT_TRUE(chat.request.pruning().reproducible());
  EXPECT_FALSE(chat.request.has_max_tokens());
  EXPECT_FALSE(chat.request.has_top_logprobs());
}

TEST(ParseJsonTest, JoinsTextPartsAndRefusesOthers) {
  v1::ChatRequest request;
  AnswerOptions options;
  ASSERT_TRUE(ParseChatJson(R"({"messages":[{"role":"user","content":[
      {"type":"text","text":"a"},{"type":"text","text":"b"}]},
      {"role":"assistant","content":null}]})",
                            request, options)
                  .ok());
  EXPECT_EQ(request.messages(0).content(), "a\nb");
  EXPECT_EQ(request.messages(1).content(), "");
  const absl::Status images = ParseChatJson(
      R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]})",
      request, options);
  EXPECT_THAT(std::string(images.message()), HasSubstr("image_url"));
}

TEST(ParseJsonTest, PromptsAreTextOrIdsAlsoAloneInAList) {
  EXPECT_EQ(ParseCompletion(R"({"prompt":"a"})").request.text(), "a");
  EXPECT_EQ(ParseCompletion(R"({"prompt":["a"]})").request.text(), "a");
  for (const char* body : {R"({"prompt":[1,2]})", R"({"prompt":[[1,2]]})"}) {
    EXPECT_THAT(ParseCompletion(body).request.token_ids().ids(), ElementsAre(1, 2)) << body;
  }
  EXPECT_EQ(ParseCompletion(R"({"prompt":"a"})").request.max_tokens(), 16u);
  EXPECT_FALSE(ParseCompletion(R"({"prompt":"a","logprobs":false})").request.has_top_logprobs());
  const Completion logprobs = ParseCompletion(R"({"prompt":"a","logprobs":0})");
  EXPECT_TRUE(logprobs.options.logprobs && logprobs.request.has_top_logprobs());
}

TEST(ParseJsonTest, MistakesAreNamedWithValueAndRemedy) {
  const std::pair<const char*, const char*> cases[] = {
      {R"(,"temperature":"hot")", "\"hot\"; use a number"},
      {R"(,"max_tokens":0)", "max_tokens: is 0; use a whole number from 1"},
      {R"(,"max_tokens":1.5)", "is 1.5"},
      {R"(,"seed":1e30)", "seed"},
      {R"(,"n":0)", "n: is 0"},
      {R"(,"tools":[{"type":"function"}])", "tools: is not supported"},
      {R"(,"tool_choice":"required")", "tool_choice"},
      {R"(,"response_format":{"type":"json_object"})", "response_format"},
      {R"(,"modalities":["audio"])", "modalities"},
      {R"(,"stream":1)", "stream: is 1; use true or false"},
      {R"(,"stream_options":{"include_usage":"y"})", "stream_options.include_usage"},
      {R"(,"stop":[1])", "stop: is a list"},
      {R"(,"stop_token_ids":[-1])", "has -1; use token ids"},
      {R"(,"logit_bias":{"x":1})", "'x'"},
      {R"(,"logit_bias":{"1":"x"})", "use a token id and a number"},
      {R"(,"top_logprobs":2)", "needs \"logprobs\": true"},
      {R"(,"logprobs":3)", "logprobs: is 3"},
      {R"(,"pruning":{"mode":"fast"})", "pruning.mode: is 'fast'; use dense, dip or dip_ca"},
      {R"(,"messages":"hi")", "messages: is \"hi\"; use a list of messages"},
      {R"(,"messages":["hi"])", "messages[0]: has no role"},
      {R"(,"messages":[{"role":"assistant","tool_calls":[{}]}])", "messages[0].tool_calls"},
  };
  for (const auto& [members, words] : cases) {
    const absl::Status status = ParseChat(members).status;
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << members;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words)) << members;
  }
}

TEST(ParseJsonTest, MistakesOfCompletions) {
  const std::pair<const char*, const char*> cases[] = {
      {"{}", "prompt: is missing"},
      {R"({"prompt":["a","b"]})", "has 2 prompts"},
      {R"({"prompt":[1,"b"]})", "has \"b\"; use token ids"},
      {R"({"prompt":{}})", "prompt: is an object"},
      {R"({"prompt":"a","echo":true})", "echo"},
      {R"({"prompt":"a","suffix":"b"})", "suffix"},
      {R"({"prompt":"a","best_of":3})", "best_of: is 3"},
  };
  for (const auto& [body, words] : cases) {
    EXPECT_THAT(std::string(ParseCompletion(body).status.message()), HasSubstr(words)) << body;
  }
}

TEST(ParseJsonTest, RefusesWhatIsNoObject) {
  const std::string deep(100, '[');
  for (const std::string& body : {std::string(), std::string("x"), std::string("[1]"), deep,
                                  std::string("{\"prompt\":\"\xff\"}"), std::string("null")}) {
    EXPECT_THAT(std::string(ParseCompletion(body).status.message()), HasSubstr("body")) << body;
  }
}

}  // namespace tidegate::parse_json_test
