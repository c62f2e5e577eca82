// Calls with keys, over a real server and real connections.
#include "server/call_access.h"

#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <future>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/support/error_details.h"
#include "tests/support/http_client.h"
#include "tests/support/server_fixture.h"

namespace tidegate::call_access_test {

using grpc::StatusCode;

std::string KeyLine(const std::string& id, std::vector<Scope> scopes, LimitValues limits = {}) {
  KeyEntry entry = {.id = id, .hash = HashOfKey("tg-" + id), .limits = limits};
  for (const Scope scope : scopes) entry.scopes |= 1u << static_cast<uint32_t>(scope);
  return FormatKeyLine(entry) + "\n";
}

class CallAccessTest : public ServerFixture {
 protected:
  using Reader = grpc::ClientReader<v1::GenerateResponse>;

  void WriteKeys(const std::string& text) {
    WriteFileOrDie(keys_, text);
    ASSERT_EQ(::chmod(keys_.c_str(), 0600), 0);
  }
  void Adjust(ServerOptions& options) override {
    WriteKeys(absl::StrCat(KeyLine("a", {Scope::kInfer}, {.queue_share = 0.5}),
                           KeyLine("b", {Scope::kInfer}),
                           KeyLine("one", {Scope::kInfer}, {.concurrent = 1}),
                           KeyLine("few", {Scope::kInfer}, {.tokens_per_minute = 60}),
                           KeyLine("slow", {Scope::kModelRead}, {.requests_per_minute = 2}),
                           KeyLine("reader", {Scope::kModelRead, Scope::kTokenize}),
                           KeyLine("root", {Scope::kAdmin, Scope::kInfer})));
    access_ = AccessControl::Create(keys_).value();
    audit_ = AuditLog::Open(log_).value();
    options.http.listen = "127.0.0.1:0";
    options.access = access_;
    options.audit = audit_;
  }

  // A call's context with a key; none for "".
  static std::unique_ptr<grpc::ClientContext> As(const std::string& id) {
    auto context = std::make_unique<grpc::ClientContext>();
    if (!id.empty()) context->AddMetadata("authorization", "Bearer tg-" + id);
    return context;
  }
  // The status code of an HTTP request.
  int Http(const std::string& id, const std::string& line, const std::string& body = "") {
    auto client =
        HttpClient::Connect({"127.0.0.1", static_cast<uint16_t>(server_->http_port()), ""});
    EXPECT_TRUE(client.ok()) << client.status();
    const std::string key = id.empty() ? "" : "Authorization: Bearer tg-" + id + "\r\n";
    EXPECT_TRUE(client
                    ->Send(absl::StrCat(line, " HTTP/1.1\r\nHost: x\r\n", key,
                                        "Content-Length: ", body.size(), "\r\n\r\n", body))
                    .ok());
    const auto answer = client->Read();
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? answer->code : 0;
  }
  grpc::Status ListModels(const std::string& id) {
    const auto context = As(id);
    v1::ListModelsResponse response;
    return models_->ListModels(context.get(), v1::ListModelsRequest(), &response);
  }
  grpc::Status Tokenize(const std::string& id) {
    const auto context = As(id);
    v1::TokenizeRequest request;
    request.set_text("a");
    v1::TokenizeResponse response;
    return generation_->Tokenize(context.get(), request, &response);
  }
  bool Cancel(const std::string& id, const std::string& request_id) {
    const auto context = As(id);
    v1::CancelRequest request;
    request.set_request_id(request_id);
    v1::CancelResponse response;
    EXPECT_TRUE(generation_->Cancel(context.get(), request, &response).ok());
    return response.found();
  }
  std::unique_ptr<Reader> Generate(grpc::ClientContext& context, const std::string& request_id,
                                   uint32_t max_tokens = 8) {
    v1::GenerateRequest request;
    request.set_text("a");
    request.set_request_id(request_id);
    request.set_max_tokens(max_tokens);
    return generation_->Generate(&context, request);
  }
  // A stream that has begun, with the engine's id of it.
  std::unique_ptr<Reader> Begin(grpc::ClientContext& context, const std::string& request_id) {
    auto reader = Generate(context, request_id);
    v1::GenerateResponse response;
    EXPECT_TRUE(reader->Read(&response));
    id_ = engine_->WaitForRequest();
    return reader;
  }
  static grpc::Status EndOf(Reader& reader) {
    v1::GenerateResponse response;
    while (reader.Read(&response)) {
    }
    return reader.Finish();
  }
  grpc::Status Refused(const std::string& id, uint32_t max_tokens = 8) {
    const auto context = As(id);
    return EndOf(*Generate(*context, "refused", max_tokens));
  }
  static std::string ReasonOf(const grpc::Status& status) {
    const auto info = DetailOf<google::rpc::ErrorInfo>(status);
    return info.has_value() ? info->reason() : "";
  }
  // One call of gRPC reflection: ListServices.
  grpc::Status Reflect(const std::string& id, size_t& answer_bytes) {
    const auto context = As(id);
    grpc::GenericStub stub(channel_);
    const grpc::Slice slice(std::string("\x3a\0", 2));
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    std::promise<grpc::Status> done;
    stub.UnaryCall(context.get(), "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                   grpc::StubOptions(), &request, &response,
                   [&done](grpc::Status status) { done.set_value(std::move(status)); });
    const grpc::Status status = done.get_future().get();
    answer_bytes = status.ok() ? response.Length() : 0;
    return status;
  }
  std::vector<std::string> AuditLines(size_t count) {
    EXPECT_TRUE(WaitUntil([&] { return audit_->written() >= count; }, std::chrono::seconds(20)));
    return absl::StrSplit(ReadFileOrDie(log_), '\n', absl::SkipEmpty());
  }

  TempDir folder_;
  const std::string keys_ = folder_.File("keys"), log_ = folder_.File("audit");
  std::shared_ptr<AccessControl> access_;
  std::shared_ptr<AuditLog> audit_;
  uint64_t id_ = 0;
};

TEST_F(CallAccessTest, CallsWantAKeyWithTheirScope) {
  EXPECT_TRUE(ListModels("reader").ok());
  EXPECT_TRUE(Tokenize("reader").ok());
  for (const char* id : {"", "nobody"}) {
    for (const grpc::Status& status : {ListModels(id), Tokenize(id), Refused(id)}) {
      EXPECT_EQ(status.error_code(), StatusCode::UNAUTHENTICATED);
      EXPECT_EQ(ReasonOf(status), *id == '\0' ? kNoKey : kUnknownKey);
    }
  }
  for (const grpc::Status& status : {ListModels("a"), Tokenize("root"), Refused("reader")}) {
    EXPECT_EQ(status.error_code(), StatusCode::PERMISSION_DENIED);
    EXPECT_EQ(ReasonOf(status), kNoScope);
  }
  EXPECT_EQ(engine_->submitted(), 0u);
  EXPECT_TRUE(MetricAppears(R"(tidegate_requests_rejected_total{model="tiny",reason="denied"} 3)"));
}

TEST_F(CallAccessTest, TheKeyIsTheClient) {
  const auto context = As("a");
  const auto reader = Begin(*context, "r");
  EXPECT_EQ(engine_->last_request().client, "key:a");
  EXPECT_EQ(engine_->last_request().queue_share, 0.5);
  engine_->End(id_, FinishReason::kMaxTokens);
  EXPECT_TRUE(EndOf(*reader).ok());
}

TEST_F(CallAccessTest, AStreamGoesOnWhenItsKeyIsRemoved) {
  const auto context = As("a");
  const auto reader = Begin(*context, "r");
  WriteKeys(KeyLine("b", {Scope::kInfer}));
  ASSERT_TRUE(access_->Reload().ok());
  EXPECT_EQ(Refused("a").error_code(), StatusCode::UNAUTHENTICATED);
  engine_->Emit(id_, " a", {1});
  v1::GenerateResponse response;
  EXPECT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.delta().text(), " a");
  engine_->End(id_, FinishReason::kMaxTokens);
  EXPECT_TRUE(EndOf(*reader).ok());
}

TEST_F(CallAccessTest, LimitsOfAKeyAreItsOwn) {
  EXPECT_TRUE(ListModels("slow").ok());
  EXPECT_TRUE(ListModels("slow").ok());
  const grpc::Status too_often = ListModels("slow");
  EXPECT_EQ(too_often.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ReasonOf(too_often), kRequestRateLimit);
  EXPECT_TRUE(DetailOf<google::rpc::QuotaFailure>(too_often).has_value());
  const auto retry = DetailOf<google::rpc::RetryInfo>(too_often);
  ASSERT_TRUE(retry.has_value());
  EXPECT_GT(retry->retry_delay().seconds(), 1);
  EXPECT_TRUE(ListModels("reader").ok());

  // A prompt of 2 and an answer of 8 are reserved: 50 of the minute's 60 are left.
  const auto context = As("few");
  const auto reader = Begin(*context, "r");
  EXPECT_EQ(ReasonOf(Refused("few", 97)), kTokenRateLimit);
  engine_->End(id_, FinishReason::kMaxTokens);
  EXPECT_TRUE(EndOf(*reader).ok());

  const auto one = As("one");
  const auto running = Begin(*one, "r1");
  EXPECT_EQ(ReasonOf(Refused("one")), kConcurrencyLimit);
  engine_->End(id_, FinishReason::kMaxTokens);
  EXPECT_TRUE(EndOf(*running).ok());
  const auto again = As("one");
  const auto next = Begin(*again, "r2");
  engine_->End(id_, FinishReason::kMaxTokens);
  EXPECT_TRUE(EndOf(*next).ok());
  EXPECT_TRUE(
      MetricAppears(R"(tidegate_requests_rejected_total{model="tiny",reason="key_share"} 1)"));
  EXPECT_TRUE(
      MetricAppears(R"(tidegate_requests_rejected_total{model="tiny",reason="key_rate"} 1)"));
}

TEST_F(CallAccessTest, WhatTheEngineTurnsAwayUsesNothing) {
  engine_->SetSubmitError(absl::ResourceExhaustedError("full"));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(ReasonOf(Refused("one")), "QUEUE_FULL");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(ReasonOf(Refused("few", 97)), "QUEUE_FULL");
}

TEST_F(CallAccessTest, StreamsAreCancelledByTheirOwnersAndAdmins) {
  const auto context = As("a"), other = As("a");
  const auto reader = Begin(*context, "mine");
  EXPECT_FALSE(Cancel("b", "mine"));
  EXPECT_TRUE(Cancel("a", "mine"));
  EndOf(*reader);
  const auto second = Begin(*other, "again");
  EXPECT_TRUE(Cancel("root", "again"));
  EndOf(*second);
}

TEST_F(CallAccessTest, HealthIsOpenAndReflectionForAdmins) {
  grpc::ClientContext context;
  grpc::GenericStub stub(channel_);
  grpc::ByteBuffer response;
  std::promise<grpc::Status> done;
  const grpc::Slice empty;
  const grpc::ByteBuffer nothing(&empty, 1);
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &nothing, &response,
                 [&done](grpc::Status status) { done.set_value(std::move(status)); });
  const grpc::Status health = done.get_future().get();
  EXPECT_TRUE(health.ok()) << health.error_message();

  size_t bytes = 0;
  EXPECT_EQ(Reflect("", bytes).error_code(), StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Reflect("a", bytes).error_code(), StatusCode::PERMISSION_DENIED);
  EXPECT_TRUE(Reflect("root", bytes).ok());
  EXPECT_GT(bytes, 50u);
}

TEST_F(CallAccessTest, HttpAsksForTheSameKeys) {
  constexpr char kPrompt[] = R"({"prompt":"a"})";
  EXPECT_EQ(Http("", "GET /health"), 200);
  EXPECT_EQ(Http("", "GET /v1/models"), 401);
  EXPECT_EQ(Http("nobody", "GET /v1/models/tiny"), 401);
  EXPECT_EQ(Http("reader", "GET /v1/models"), 200);
  EXPECT_EQ(Http("a", "GET /v1/models"), 403);
  EXPECT_EQ(Http("", "POST /v1/completions", kPrompt), 401);
  EXPECT_EQ(Http("reader", "POST /v1/chat/completions", "{}"), 403);
  EXPECT_EQ(engine_->submitted(), 0u);
  const auto context = As("one");
  const auto running = Begin(*context, "r");
  EXPECT_EQ(Http("one", "POST /v1/completions", kPrompt), 429);
  engine_->End(id_, FinishReason::kMaxTokens);
  EXPECT_TRUE(EndOf(*running).ok());
}

TEST_F(CallAccessTest, EveryCallLeavesALineWithoutItsText) {
  const auto context = As("a");
  const auto reader = Begin(*context, "r-7");
  engine_->Emit(id_, " secretanswer", {1, 2});
  GenerationResult result;
  result.reason = FinishReason::kMaxTokens;
  result.accounts.prompt_tokens = 2;
  result.accounts.generated_tokens = 5;
  engine_->End(id_, result);
  EXPECT_TRUE(EndOf(*reader).ok());
  AuditLines(1);
  EXPECT_FALSE(Tokenize("nobody").ok());
  const std::vector<std::string> lines = AuditLines(2);
  ASSERT_EQ(lines.size(), 2u);
  const auto stream = nlohmann::json::parse(lines[0]);
  EXPECT_EQ(stream["key"], "a");
  EXPECT_EQ(stream["method"], "Generate");
  EXPECT_EQ(stream["request_id"], "r-7");
  EXPECT_EQ(stream["model"], "tiny");
  EXPECT_EQ(stream["status"], "OK");
  EXPECT_EQ(stream["finish_reason"], "max_tokens");
  EXPECT_EQ(stream["peer"], "127.0.0.1");
  EXPECT_EQ(stream["prompt_tokens"], 2);
  EXPECT_EQ(stream["generated_tokens"], 5);
  const auto denied = nlohmann::json::parse(lines[1]);
  EXPECT_EQ(denied["status"], "UNAUTHENTICATED");
  EXPECT_EQ(denied["reason"], kUnknownKey);
  EXPECT_FALSE(denied.contains("key"));
  for (const std::string& line : lines) {
    EXPECT_THAT(line, testing::Not(testing::HasSubstr("secretanswer")));
    EXPECT_THAT(line, testing::Not(testing::HasSubstr("tg-")));
  }
}

TEST(IsCheckedElsewhereTest, OnlyWhatIsNamed) {
  EXPECT_TRUE(IsCheckedElsewhere("/tidegate.v1.GenerationService/Generate"));
  EXPECT_TRUE(IsCheckedElsewhere("/inference.GRPCInferenceService/ModelInfer"));
  EXPECT_TRUE(IsCheckedElsewhere("/grpc.health.v1.Health/Watch"));
  for (const char* method :
       {"", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.channelz.v1.Channelz/GetServers", "/grpc.health.v1.Healthy/X"}) {
    EXPECT_FALSE(IsCheckedElsewhere(method)) << method;
  }
}

}  // namespace tidegate::call_access_test
