#include "server/generate_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/support/error_details.h"
#include "tests/support/server_fixture.h"

namespace tidegate::generate_stream_test {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class GenerateStreamTest : public ServerFixture {
 protected:
  using Reader = grpc::ClientReader<v1::GenerateResponse>;

  static v1::GenerateRequest Request() {
    v1::GenerateRequest request;
    request.set_text("a");
    request.set_request_id("r-1");
    return request;
  }
  // Starts a stream and reads its Started event.
  std::unique_ptr<Reader> Begin(grpc::ClientContext& context, const v1::GenerateRequest& request) {
    auto reader = generation_->Generate(&context, request);
    v1::GenerateResponse response;
    EXPECT_TRUE(reader->Read(&response));
    EXPECT_TRUE(response.has_started());
    started_ = response.started();
    id_ = engine_->WaitForRequest();
    return reader;
  }
  // The status of a call that gives no event.
  grpc::Status Refused(const v1::GenerateRequest& request, grpc::ClientContext& context) {
    auto reader = generation_->Generate(&context, request);
    v1::GenerateResponse response;
    EXPECT_FALSE(reader->Read(&response));
    return reader->Finish();
  }

  uint64_t id_ = 0;
  v1::Started started_;
};

TEST_F(GenerateStreamTest, StreamsStartedDeltasAndFinished) {
  grpc::ClientContext context;
  const auto reader = Begin(context, Request());
  EXPECT_EQ(started_.request_id(), "r-1");
  EXPECT_EQ(started_.model(), "tiny");
  EXPECT_EQ(started_.prompt_tokens(), 2u);
  EXPECT_EQ(started_.mode(), v1::DECODE_MODE_DIP_CA);
  EXPECT_FLOAT_EQ(started_.density(), 0.75f);
  EXPECT_FLOAT_EQ(started_.gamma(), 0.2f);

  v1::GenerateResponse response;
  engine_->Emit(id_, " upon", {41, 42});
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.delta().text(), " upon");
  EXPECT_THAT(response.delta().token_ids(), ElementsAre(41, 42));

  GenerationResult result;
  result.reason = FinishReason::kStopString;
  result.stop_string = "END";
  result.accounts.seed = 99;
  result.accounts.generated_tokens = 2;
  engine_->End(id_, result);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.finished().finish_reason(), v1::FINISH_REASON_STOP_STRING);
  EXPECT_EQ(response.finished().stop_string(), "END");
  EXPECT_EQ(response.finished().seed(), 99u);
  EXPECT_EQ(response.finished().usage().generated_tokens(), 2u);
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GenerateStreamTest, DeltasCarryLogprobsForThoseWhoAsk) {
  v1::GenerateRequest request = Request();
  request.set_top_logprobs(2);
  grpc::ClientContext context;
  const auto reader = Begin(context, request);
  EXPECT_EQ(engine_->last_request().top_logprobs, 2u);
  engine_->EmitLogprobs(id_, " upon", {41, 42},
                        {{.logprob = -0.25, .top = {{41, -0.25}, {9, -2}}}, {.logprob = -3}});
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  ASSERT_EQ(response.delta().logprobs_size(), 2);
  EXPECT_EQ(response.delta().logprobs(0).logprob(), -0.25);
  ASSERT_EQ(response.delta().logprobs(0).top_size(), 2);
  EXPECT_EQ(response.delta().logprobs(0).top(1).token_id(), 9u);
  EXPECT_EQ(response.delta().logprobs(0).top(1).logprob(), -2);
  EXPECT_EQ(response.delta().logprobs(1).top_size(), 0);
  engine_->End(id_, FinishReason::kMaxTokens);
  EXPECT_TRUE(reader->Read(&response));
  EXPECT_TRUE(response.has_finished());
}

TEST_F(GenerateStreamTest, ChoicesShareAStreamAndEachHasItsEnd) {
  v1::GenerateRequest request = Request();
  request.set_choices(2);
  grpc::ClientContext context;
  const auto reader = Begin(context, request);
  EXPECT_EQ(engine_->last_request().choices, 2u);
  const uint64_t first = id_, second = id_ + 1;
  v1::GenerateResponse response;
  engine_->Emit(second, " upon", {41});
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.delta().choice(), 1u);
  engine_->End(second, FinishReason::kMaxTokens);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.finished().choice(), 1u);
  EXPECT_EQ(response.finished().finish_reason(), v1::FINISH_REASON_MAX_TOKENS);
  engine_->Emit(first, " a", {42});
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.delta().choice(), 0u);
  engine_->End(first, FinishReason::kEndOfText);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.finished().choice(), 0u);
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(MetricAppears(
      "tidegate_requests_total{model=\"tiny\",code=\"OK\",finish_reason=\"end_of_text\","
      "method=\"Generate\"} 1"));
}

TEST_F(GenerateStreamTest, AnErrorOfOneChoiceEndsTheCallAndTheOthers) {
  v1::GenerateRequest request = Request();
  request.set_choices(3);
  grpc::ClientContext context;
  const auto reader = Begin(context, request);
  GenerationResult broken;
  broken.reason = FinishReason::kError;
  broken.status = absl::DataLossError("damaged");
  engine_->End(id_ + 1, broken);
  v1::GenerateResponse response;
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DATA_LOSS);
  engine_->WaitForCancel(id_);
  EXPECT_TRUE(WaitUntil([&] { return engine_->Running().empty(); }, std::chrono::seconds(10)));
}

TEST_F(GenerateStreamTest, SaysHowLikelyThePromptWasAndThatItIsAlive) {
  v1::GenerateRequest request = Request();
  request.set_prompt_logprobs(1);
  request.mutable_keep_alive()->set_nanos(100'000'000);
  grpc::ClientContext context;
  const auto reader = Begin(context, request);
  EXPECT_EQ(engine_->last_request().prompt_logprobs, 1u);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_TRUE(response.has_keep_alive());
  engine_->EmitPromptLogprobs(id_, 1, {7}, {{.logprob = -0.5, .top = {{9, -0.25}}}});
  do {
    ASSERT_TRUE(reader->Read(&response));
  } while (response.has_keep_alive());
  const v1::PromptLogprobs& prompt = response.prompt_logprobs();
  EXPECT_EQ(prompt.first(), 1u);
  EXPECT_THAT(prompt.token_ids(), ElementsAre(7));
  EXPECT_EQ(prompt.logprobs(0).logprob(), -0.5);
  EXPECT_EQ(prompt.logprobs(0).top(0).token_id(), 9u);
  engine_->End(id_, FinishReason::kMaxTokens);
  while (reader->Read(&response)) {
  }
  EXPECT_TRUE(response.has_finished());
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GenerateStreamTest, SaysHowFarThePromptIs) {
  v1::GenerateRequest request = Request();
  request.set_progress(true);
  grpc::ClientContext context;
  const auto reader = Begin(context, request);
  EXPECT_TRUE(engine_->last_request().progress);
  engine_->EmitProgress(id_, {.processed = 64, .total = 100, .cached = 32});
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.progress().processed_tokens(), 64u);
  EXPECT_EQ(response.progress().total_tokens(), 100u);
  EXPECT_EQ(response.progress().cached_tokens(), 32u);
  engine_->End(id_, FinishReason::kMaxTokens);
  EXPECT_TRUE(reader->Read(&response));
  EXPECT_TRUE(response.has_finished());
}

TEST_F(GenerateStreamTest, MakesARequestIdWhereNoneIsGiven) {
  v1::GenerateRequest request = Request();
  request.clear_request_id();
  grpc::ClientContext context;
  const auto reader = Begin(context, request);
  EXPECT_EQ(started_.request_id().size(), 16u);
  engine_->End(id_, FinishReason::kMaxTokens);
}

TEST_F(GenerateStreamTest, TheEngineGetsTheRequestAsParsed) {
  v1::GenerateRequest request = Request();
  request.set_max_tokens(5);
  request.set_model("other-name");
  grpc::ClientContext context;
  const auto reader = Begin(context, request);
  EXPECT_EQ(engine_->last_request().max_tokens, 5u);
  EXPECT_THAT(engine_->last_request().prompt, ElementsAre(kTinyBos, kTinyFirstPiece));
  engine_->End(id_, FinishReason::kMaxTokens);
}

TEST_F(GenerateStreamTest, ASlowClientGetsEverythingInOrder) {
  constexpr TokenId kTokens = 20000;
  grpc::ClientContext context;
  const auto reader = Begin(context, Request());
  // The client reads nothing meanwhile.
  for (TokenId id = 0; id < kTokens; ++id) engine_->Emit(id_, "abcdefgh", {id});
  engine_->End(id_, FinishReason::kMaxTokens);

  v1::GenerateResponse response;
  std::vector<uint32_t> ids;
  size_t bytes = 0;
  int deltas = 0;
  while (reader->Read(&response) && response.has_delta()) {
    ++deltas;
    bytes += response.delta().text().size();
    ids.insert(ids.end(), response.delta().token_ids().begin(), response.delta().token_ids().end());
  }
  EXPECT_TRUE(response.has_finished());
  ASSERT_EQ(ids.size(), static_cast<size_t>(kTokens));
  for (TokenId id = 0; id < kTokens; ++id) ASSERT_EQ(ids[id], static_cast<uint32_t>(id));
  EXPECT_EQ(bytes, 8u * kTokens);
  EXPECT_LT(deltas, kTokens);
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GenerateStreamTest, AClientThatNeverReadsIsCutOff) {
  grpc::ClientContext context;
  const auto reader = Begin(context, Request());
  const std::string chunk(100000, 'x');
  // Beyond what flow control and the buffer hold together.
  for (int i = 0; i < 200 && !engine_->Running().empty(); ++i) engine_->Emit(id_, chunk, {1});
  engine_->WaitForCancel(id_);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(GenerateStreamTest, CancellingStopsTheEngine) {
  grpc::ClientContext context;
  const auto reader = Begin(context, Request());
  context.TryCancel();
  engine_->WaitForCancel(id_);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(engine_->Running().empty());
  EXPECT_TRUE(MetricAppears(R"(tidegate_cancellations_total{model="tiny",stage="queued"} 1)"))
      << metrics_server_->Render();
}

TEST_F(GenerateStreamTest, AnotherCallCancelsByRequestId) {
  const auto cancel = [this](const std::string& request_id) {
    grpc::ClientContext context;
    v1::CancelRequest request;
    request.set_request_id(request_id);
    v1::CancelResponse response;
    const grpc::Status status = generation_->Cancel(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.found();
  };
  EXPECT_FALSE(cancel("r-1"));
  v1::GenerateRequest other_request = Request();
  other_request.set_request_id("r-2");
  grpc::ClientContext contexts[3];
  const auto first = Begin(contexts[0], Request());
  const auto same = Begin(contexts[1], Request());
  const auto other = Begin(contexts[2], other_request);
  EXPECT_TRUE(cancel("r-1"));
  v1::GenerateResponse response;
  for (const auto& reader : {first.get(), same.get()}) {
    EXPECT_FALSE(reader->Read(&response));
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_EQ(engine_->Running(), std::vector<uint64_t>{id_});
  EXPECT_FALSE(cancel("r-1")) << "they have ended";
  engine_->End(id_, FinishReason::kMaxTokens);
  EXPECT_TRUE(other->Read(&response));
  EXPECT_TRUE(response.has_finished());
  EXPECT_TRUE(MetricAppears(R"(tidegate_cancellations_total{model="tiny",stage="queued"} 2)"))
      << metrics_server_->Render();
}

TEST_F(GenerateStreamTest, TheDeadlineStopsTheEngine) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  const auto reader = Begin(context, Request());
  engine_->WaitForCancel(id_);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(GenerateStreamTest, LateEngineCallsMeetALiveObject) {
  grpc::ClientContext context;
  std::shared_ptr<GenerationSink> late;
  {
    auto reader = Begin(context, Request());
    late = engine_->SinkOf(id_);
    context.TryCancel();
    engine_->WaitForCancel(id_);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
    }
    reader->Finish();
  }
  server_->Shutdown(std::chrono::steady_clock::now());
  const TokenId id = 5;
  late->OnTokens("late", std::span<const TokenId>(&id, 1));
  late->OnDone(GenerationResult());
}

TEST_F(GenerateStreamTest, AnEngineErrorEndsTheStreamWithItsStatus) {
  grpc::ClientContext context;
  const auto reader = Begin(context, Request());
  engine_->Emit(id_, "a", {1});
  GenerationResult result;
  result.reason = FinishReason::kError;
  result.status = absl::DataLossError("layer 1, input units, block 7");
  engine_->End(id_, result);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.delta().text(), "a");
  EXPECT_FALSE(reader->Read(&response));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(DetailOf<google::rpc::ErrorInfo>(status)->reason(), "WEIGHTS_DAMAGED");
  EXPECT_EQ(DetailOf<google::rpc::RequestInfo>(status)->request_id(), "r-1");
}

TEST_F(GenerateStreamTest, AFullQueueSaysWhenToTryAgain) {
  engine_->SetSubmitError(absl::ResourceExhaustedError("64 requests wait already"));
  grpc::ClientContext context;
  const grpc::Status status = Refused(Request(), context);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf<google::rpc::ErrorInfo>(status)->reason(), "QUEUE_FULL");
  EXPECT_EQ(DetailOf<google::rpc::RetryInfo>(status)->retry_delay().seconds(), 1);
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto pushback = trailers.find("grpc-retry-pushback-ms");
  ASSERT_NE(pushback, trailers.end());
  EXPECT_EQ(std::string(pushback->second.data(), pushback->second.size()), "1000");
  EXPECT_TRUE(
      MetricAppears(R"(tidegate_requests_rejected_total{model="tiny",reason="queue_full"} 1)"))
      << metrics_server_->Render();
}

TEST_F(GenerateStreamTest, BadRequestsNameTheirFields) {
  v1::GenerateRequest request = Request();
  request.mutable_sampling()->set_top_p(7);
  request.set_max_tokens(0);
  grpc::ClientContext context;
  const grpc::Status status = Refused(request, context);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(status)->field_violations_size(), 2);
}

TEST_F(GenerateStreamTest, LongPromptsAndOtherModelsAreRefused) {
  v1::GenerateRequest request = Request();
  request.set_text(std::string(200, 'z'));
  grpc::ClientContext long_context;
  const grpc::Status too_long = Refused(request, long_context);
  EXPECT_EQ(too_long.error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(DetailOf<google::rpc::ErrorInfo>(too_long)->metadata().at("context_tokens"), "64");
  request = Request();
  request.set_model("huge");
  grpc::ClientContext model_context;
  const grpc::Status other = Refused(request, model_context);
  EXPECT_EQ(other.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(DetailOf<google::rpc::ResourceInfo>(other)->resource_name(), "huge");
}

TEST_F(GenerateStreamTest, WithoutAStoreItIsUnavailable) {
  engine_->SetAttached(false);
  grpc::ClientContext context;
  const grpc::Status status = Refused(Request(), context);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailOf<google::rpc::ErrorInfo>(status)->reason(), "WEIGHT_STORE_UNAVAILABLE");
  EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(status).has_value());
}

TEST_F(GenerateStreamTest, OversizedMessagesAreRefused) {
  v1::GenerateRequest request = Request();
  request.set_text(std::string(5 << 20, 'a'));
  grpc::ClientContext context;
  EXPECT_EQ(Refused(request, context).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(GenerateStreamTest, ManyClientsCancelAtOnce) {
  constexpr int kClients = 16;
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([this] {
      for (int round = 0; round < 10; ++round) {
        grpc::ClientContext context;
        const auto reader = generation_->Generate(&context, Request());
        v1::GenerateResponse response;
        if (round % 2 == 0) reader->Read(&response);
        context.TryCancel();
        reader->Finish();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(WaitUntil([&] { return engine_->Running().empty(); }, std::chrono::seconds(10)));
}

// A Chat call differs from Generate in its prompt alone.
TEST_F(GenerateStreamTest, ChatStreamsAnAnswer) {
  engine_->SetChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}");
  v1::ChatRequest request;
  v1::ChatMessage& message = *request.add_messages();
  message.set_role("user");
  message.set_content("a</s>");
  request.set_request_id("c-1");
  request.set_max_tokens(7);
  grpc::ClientContext context;
  const auto reader = generation_->Chat(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.started().request_id(), "c-1");
  const uint64_t id = engine_->WaitForRequest();
  EXPECT_THAT(engine_->last_request().prompt,
              ElementsAre(kTinyBos, kTinyFirstPiece, kTinyFirstByte + '<', kTinyFirstByte + '/',
                          kTinyFirstByte + 's', kTinyFirstByte + '>', kTinyEos));
  EXPECT_EQ(engine_->last_request().max_tokens, 7u);
  engine_->Emit(id, "yes", {41});
  engine_->End(id, FinishReason::kEndOfText);
  std::string text;
  while (reader->Read(&response)) text += response.delta().text();
  EXPECT_EQ(text, "yes");
  EXPECT_EQ(response.finished().finish_reason(), v1::FINISH_REASON_END_OF_TEXT);
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(
      MetricAppears("tidegate_requests_total{model=\"tiny\",code=\"OK\","
                    "finish_reason=\"end_of_text\",method=\"Chat\"} 1"));
}

TEST_F(GenerateStreamTest, ChatWithoutATemplateSaysWhatToDo) {
  v1::ChatRequest request;
  request.add_messages()->set_role("user");
  grpc::ClientContext context;
  const auto reader = generation_->Chat(&context, request);
  v1::GenerateResponse response;
  EXPECT_FALSE(reader->Read(&response));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("use Generate"));
  EXPECT_THAT(status.error_message(), Not(HasSubstr("--")));  // flags are for the log
  EXPECT_EQ(DetailOf<google::rpc::ErrorInfo>(status)->reason(), "NO_CHAT_TEMPLATE");
}

}  // namespace tidegate::generate_stream_test
