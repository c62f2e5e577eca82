// The HTTP API over real sockets, with an engine that says what the test tells it.
#include "server/openai/openai_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/support/http_client.h"
#include "tests/support/server_fixture.h"

namespace tidegate::openai_server_test {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;

constexpr char kTemplate[] = "{% for m in messages %}{{ m.content }}{% endfor %}";
constexpr std::chrono::seconds kLimit{10};

class OpenAiServerTest : public ServerFixture {
 protected:
  void Adjust(ServerOptions& options) override {
    options.http.listen = "127.0.0.1:0";
    options.http.allowed_origins = {"https://chat.example"};
    options.max_open_streams = 8;
    engine_->SetChatTemplate(kTemplate);
  }
  HttpClient Connect(int receive_buffer = 0) {
    auto client = HttpClient::Connect(
        {"127.0.0.1", static_cast<uint16_t>(server_->http_port()), ""}, receive_buffer);
    EXPECT_TRUE(client.ok()) << client.status();
    return std::move(client).value();
  }
  static std::string Post(const std::string& path, const std::string& body,
                          const std::string& headers = "") {
    return absl::StrCat("POST ", path, " HTTP/1.1\r\nHost: x\r\n", headers,
                        "Content-Length: ", body.size(), "\r\n\r\n", body);
  }
  static std::string Get(const std::string& path, const std::string& headers = "") {
    return absl::StrCat("GET ", path, " HTTP/1.1\r\nHost: x\r\n", headers, "\r\n");
  }
  HttpAnswer Ask(const std::string& request) {
    HttpClient client = Connect();
    EXPECT_TRUE(client.Send(request).ok());
    const auto answer = client.Read();
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(HttpAnswer{});
  }
  // Sends a chat that streams, and waits until the engine has it.
  HttpClient BeginStream(const std::string& members = "", int receive_buffer = 0) {
    HttpClient client = Connect(receive_buffer);
    EXPECT_TRUE(client
                    .Send(Post("/v1/chat/completions",
                               absl::StrCat(R"({"messages":[{"role":"user","content":"a"}],)",
                                            R"("stream":true)", members, "}")))
                    .ok());
    id_ = engine_->WaitForRequest();
    return client;
  }
  static GenerationResult Result(FinishReason reason) {
    GenerationResult result;
    result.reason = reason;
    result.accounts.prompt_tokens = 3;
    result.accounts.generated_tokens = 2;
    return result;
  }

  uint64_t id_ = 0;
};

TEST_F(OpenAiServerTest, AnswersWhole) {
  HttpClient client = Connect();
  ASSERT_TRUE(client
                  .Send(Post("/v1/completions",
                             R"({"prompt":"a","model":"other-name","logprobs":1,"user":"u"})",
                             "X-Request-Id: r-1\r\nAuthorization: Bearer none\r\n"))
                  .ok());
  id_ = engine_->WaitForRequest();
  EXPECT_EQ(engine_->last_request().client, "127.0.0.1");
  engine_->EmitLogprobs(id_, " a", {4}, {{.logprob = -0.5, .top = {{4, -0.5}}}});
  engine_->EmitLogprobs(id_, "b", {5}, {{.logprob = -1, .top = {{5, -1}}}});
  engine_->End(id_, Result(FinishReason::kEndOfText));
  const auto answer = client.Read();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->code, 200);
  EXPECT_EQ(answer->Header("X-Request-Id"), "r-1");
  EXPECT_THAT(answer->body, HasSubstr(R"({"id":"cmpl-r-1","object":"text_completion")"));
  EXPECT_THAT(answer->body, HasSubstr(R"("model":"tiny")"));
  EXPECT_THAT(answer->body, HasSubstr(R"("text":" ab")"));
  EXPECT_THAT(answer->body, HasSubstr(R"("token_logprobs":[-0.5,-1])"));
  EXPECT_THAT(answer->body, HasSubstr(R"("finish_reason":"stop")"));
  EXPECT_THAT(answer->body, HasSubstr(R"("total_tokens":5)"));
  EXPECT_TRUE(
      MetricAppears("tidegate_requests_total{model=\"tiny\",code=\"OK\","
                    "finish_reason=\"end_of_text\",method=\"Completions\"} 1"));
}

TEST_F(OpenAiServerTest, StreamsEvents) {
  HttpClient client = BeginStream(R"(,"stream_options":{"include_usage":true})");
  EXPECT_EQ(engine_->last_request().max_tokens, engine_->context_tokens());
  EXPECT_THAT(client.ReadUntil("\r\n\r\n").value_or("?"),
              HasSubstr("Content-Type: text/event-stream; charset=utf-8\r\n"));
  EXPECT_THAT(client.ReadUntil("\n\n").value_or("?"), HasSubstr(R"("role":"assistant")"));
  engine_->Emit(id_, "one", {4});
  EXPECT_THAT(client.ReadUntil("\n\n").value_or("?"), HasSubstr(R"("delta":{"content":"one"})"));
  engine_->Emit(id_, "two", {5});
  EXPECT_THAT(client.ReadUntil("\n\n").value_or("?"), HasSubstr(R"("delta":{"content":"two"})"));
  engine_->End(id_, Result(FinishReason::kMaxTokens));
  EXPECT_THAT(client.ReadUntil("\n\n").value_or("?"), HasSubstr(R"("finish_reason":"length")"));
  EXPECT_THAT(client.ReadUntil("\n\n").value_or("?"), HasSubstr(R"("completion_tokens":2)"));
  EXPECT_THAT(client.ReadUntil("0\r\n\r\n").value_or("?"), HasSubstr("data: [DONE]\n\n"));
  ASSERT_TRUE(client.Send(Get("/health")).ok());  // the connection goes on
  EXPECT_EQ(client.Read()->code, 200);
}

TEST_F(OpenAiServerTest, ErrorsInTheMiddleOfAStreamAreEvents) {
  HttpClient client = BeginStream();
  engine_->Emit(id_, "one", {4});
  GenerationResult result = Result(FinishReason::kError);
  result.status = absl::UnavailableError("the weight store is away");
  ASSERT_TRUE(client.ReadUntil("one").ok());
  engine_->End(id_, result);
  const std::string rest = client.ReadUntil("0\r\n\r\n").value_or("?");
  EXPECT_THAT(rest, HasSubstr(R"(data: {"error":{"message":"the weight store is away")"));
  EXPECT_THAT(rest, HasSubstr("data: [DONE]"));
}

TEST_F(OpenAiServerTest, WhoLeavesIsNotServed) {
  for (const bool streams : {true, false}) {
    HttpClient client = streams ? BeginStream() : Connect();
    if (!streams) {
      ASSERT_TRUE(client.Send(Post("/v1/completions", R"({"prompt":"a"})")).ok());
      id_ = engine_->WaitForRequest();
    }
    client.Abort();
    engine_->WaitForCancel(id_);
  }
  EXPECT_TRUE(MetricAppears("tidegate_cancellations_total{model=\"tiny\",stage=\"queued\"} 2"));
  EXPECT_TRUE(MetricAppears("tidegate_open_streams{model=\"tiny\"} 0"));
}

TEST_F(OpenAiServerTest, WhoDoesNotReadIsCut) {
  HttpClient client = BeginStream("", 4096);
  const std::string piece(100'000, 'p');
  const auto cut = [&] {
    engine_->Emit(id_, piece, {4});
    return engine_->Running().empty();
  };
  EXPECT_TRUE(WaitUntil(cut, kLimit));
  EXPECT_TRUE(MetricAppears("tidegate_streams_cut_total{model=\"tiny\",reason=\"backlog\"} 1"));
}

TEST_F(OpenAiServerTest, ErrorsHaveOpenAisShape) {
  const std::string bad = R"({"prompt":"a","temperature":1000,"top_k":"x"})";
  HttpAnswer answer = Ask(Post("/v1/completions", bad));
  EXPECT_EQ(answer.code, 400);
  EXPECT_THAT(answer.body, HasSubstr(R"("param":"top_k")"));
  answer = Ask(Post("/v1/completions", R"({"prompt":"a","temperature":1000})"));
  EXPECT_THAT(answer.body, HasSubstr("temperature: 1000 is outside [0, 100]"));
  EXPECT_NE(answer.Header("X-Request-Id"), "");
  answer = Ask(Post("/v1/completions", R"({"prompt":"a","model":"gpt-4"})"));
  EXPECT_EQ(answer.code, 404);
  EXPECT_THAT(answer.body, HasSubstr(R"("code":"model_not_found")"));
  const HttpAnswer none = Ask(Get("/v1/embeddings"));
  EXPECT_EQ(none.code, 404);
  EXPECT_THAT(none.body, HasSubstr(R"({"error":{"message":"not found")"));
  EXPECT_EQ(Ask(Get("/v1/completions")).code, 405);
  const std::string large =
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
      "Content-Length: 5000000\r\n\r\n";
  EXPECT_EQ(Ask(large).code, 413);
  engine_->SetSubmitError(absl::ResourceExhaustedError("the queue is full"));
  answer = Ask(Post("/v1/completions", R"({"prompt":"a"})"));
  EXPECT_EQ(answer.code, 429);
  EXPECT_EQ(answer.Header("Retry-After"), "1");
}

TEST_F(OpenAiServerTest, PagesCallFromAllowedOriginsAlone) {
  const std::string good = "Origin: https://chat.example\r\n", bad = "Origin: https://x.test\r\n";
  EXPECT_EQ(Ask(Post("/v1/completions", "{}", bad)).code, 403);
  EXPECT_EQ(Ask(Get("/v1/models", bad)).code, 403);
  EXPECT_EQ(engine_->submitted(), 0u);
  for (const HttpAnswer& answer :
       {Ask(Get("/v1/models", good)), Ask(Post("/v1/completions", "{}", good)),
        Ask(Get("/none", good)),
        Ask("OPTIONS /v1/models HTTP/1.1\r\nHost: x\r\n" + good + "\r\n")}) {
    EXPECT_EQ(answer.Header("Access-Control-Allow-Origin"), "https://chat.example") << answer.head;
  }
}

TEST_F(OpenAiServerTest, ListsModelsAndHealth) {
  const HttpAnswer models = Ask(Get("/v1/models"));
  EXPECT_THAT(models.body, HasSubstr(R"({"object":"list","data":[{"id":"tiny","object":"model")"));
  EXPECT_THAT(models.body, HasSubstr(R"("id":"other-name")"));
  EXPECT_EQ(Ask(Get("/v1/models/tiny")).code, 200);
  EXPECT_EQ(Ask(Get("/v1/models/none")).code, 404);
  EXPECT_EQ(Ask(Get("/health")).code, 200);
  engine_->SetAttached(false);
  EXPECT_EQ(Ask(Get("/health")).code, 503);
  EXPECT_EQ(Ask(Get("/v1/models")).code, 503);
}

TEST_F(OpenAiServerTest, DrainsStreamsToTheirLastByte) {
  HttpClient client = BeginStream();
  server_->Shutdown(std::chrono::steady_clock::now());
  const std::string all = client.ReadToEnd().value_or("?");
  EXPECT_THAT(all, HasSubstr(R"("finish_reason":"length")"));
  EXPECT_THAT(all, EndsWith("0\r\n\r\n"));
  EXPECT_THAT(all, Not(HasSubstr("error")));
}

}  // namespace tidegate::openai_server_test
