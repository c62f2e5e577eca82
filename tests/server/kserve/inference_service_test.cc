#include "server/kserve/inference_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "server/kserve/infer_call.h"
#include "server/kserve/infer_response.h"
#include "server/kserve/infer_stream.h"
#include "server/kserve/streamed_infer.h"
#include "tests/support/error_details.h"
#include "tests/support/raw_call.h"
#include "tests/support/server_fixture.h"
#include "tests/support/wire_bytes.h"

namespace tidegate::inference_service_test {

using inference::ModelInferRequest;
using inference::ModelInferResponse;
using inference::ModelStreamInferResponse;
using testing::HasSubstr;

class InferenceServiceTest : public ServerFixture {
 protected:
  using Stream = grpc::ClientReaderWriter<ModelInferRequest, ModelStreamInferResponse>;

  void SetUp() override {
    ServerFixture::SetUp();
    stub_ = inference::GRPCInferenceService::NewStub(channel_);
  }
  static ModelInferRequest Request(const std::string& id) {
    ModelInferRequest request;
    request.set_id(id);
    auto& input = *request.add_inputs();
    input.set_name("text_input");
    input.set_datatype("BYTES");
    input.add_shape(1);
    input.mutable_contents()->add_bytes_contents("a");
    return request;
  }
  static std::string TextOf(const ModelInferResponse& answer) {
    return answer.outputs_size() == 0 ? "(none)" : answer.outputs(0).contents().bytes_contents(0);
  }
  static bool IsFinal(const ModelInferResponse& answer) {
    return answer.parameters().at("triton_final_response").bool_param();
  }
  static ModelInferResponse Next(Stream& stream) {
    ModelStreamInferResponse answer;
    EXPECT_TRUE(stream.Read(&answer));
    EXPECT_EQ(answer.error_message(), "");
    return answer.infer_response();
  }
  // The next request that the engine gets beyond so many.
  uint64_t EngineId(uint64_t after = 0) {
    EXPECT_TRUE(WaitUntil([&] { return engine_->submitted() > after; }, std::chrono::seconds(10)));
    return engine_->submitted();
  }
  static GenerationResult Ended(FinishReason reason) {
    GenerationResult result;
    result.reason = reason;
    result.accounts.prompt_tokens = 2;
    result.accounts.generated_tokens = 3;
    return result;
  }

  std::unique_ptr<inference::GRPCInferenceService::Stub> stub_;
};

TEST_F(InferenceServiceTest, DescribesServerAndModel) {
  grpc::ClientContext live_context, ready_context, server_context, model_context, index_context;
  inference::ServerLiveResponse live;
  ASSERT_TRUE(stub_->ServerLive(&live_context, {}, &live).ok());
  EXPECT_TRUE(live.live());
  inference::ServerReadyResponse ready;
  ASSERT_TRUE(stub_->ServerReady(&ready_context, {}, &ready).ok());
  EXPECT_TRUE(ready.ready());
  inference::ServerMetadataResponse server;
  ASSERT_TRUE(stub_->ServerMetadata(&server_context, {}, &server).ok());
  EXPECT_EQ(server.name(), "tidegate");
  inference::ModelMetadataRequest request;
  request.set_name("other-name");
  request.set_version("1");
  inference::ModelMetadataResponse model;
  ASSERT_TRUE(stub_->ModelMetadata(&model_context, request, &model).ok());
  EXPECT_EQ(model.name(), "tiny");
  EXPECT_EQ(model.inputs(0).name(), "text_input");
  EXPECT_EQ(model.outputs(0).name(), "text_output");
  inference::RepositoryIndexResponse index;
  ASSERT_TRUE(stub_->RepositoryIndex(&index_context, {}, &index).ok());
  ASSERT_EQ(index.models_size(), 1);
  EXPECT_EQ(index.models(0).state(), "READY");
}

TEST_F(InferenceServiceTest, SaysWhatIsNotReadyOrNotHere) {
  const auto ready = [this](const std::string& name, const std::string& version) {
    grpc::ClientContext context;
    inference::ModelReadyRequest request;
    request.set_name(name);
    request.set_version(version);
    inference::ModelReadyResponse response;
    const grpc::Status status = stub_->ModelReady(&context, request, &response);
    return status.ok() ? (response.ready() ? "ready" : "not ready") : status.error_message();
  };
  EXPECT_EQ(ready("tiny", ""), "ready");
  EXPECT_THAT(ready("huge", ""), HasSubstr("no model 'huge'"));
  EXPECT_THAT(ready("tiny", "2"), HasSubstr("no version '2'"));
  engine_->SetAttached(false);
  EXPECT_EQ(ready("tiny", ""), "not ready");
  grpc::ClientContext context;
  inference::ServerReadyResponse server;
  ASSERT_TRUE(stub_->ServerReady(&context, {}, &server).ok());
  EXPECT_FALSE(server.ready());
}

TEST_F(InferenceServiceTest, InfersTheWholeText) {
  ModelInferRequest request = Request("r-1");
  request.add_outputs()->set_name("finish_reason");
  request.add_outputs()->set_name("num_output_tokens");
  (*request.mutable_parameters())["exclude_input_in_output"].set_bool_param(false);
  std::thread engine([&] {
    const uint64_t id = engine_->WaitForRequest();
    engine_->Emit(id, " upon", {41});
    engine_->Emit(id, " a", {42});
    engine_->End(id, Ended(FinishReason::kStopString));
  });
  grpc::ClientContext context;
  ModelInferResponse answer;
  const grpc::Status status = stub_->ModelInfer(&context, request, &answer);
  engine.join();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(answer.model_name(), "tiny");
  EXPECT_EQ(answer.model_version(), "1");
  EXPECT_EQ(answer.id(), "r-1");
  EXPECT_EQ(TextOf(answer), "a upon a");
  EXPECT_EQ(answer.outputs(1).contents().bytes_contents(0), "stop");
  EXPECT_EQ(answer.outputs(2).contents().uint_contents(0), 3u);
  EXPECT_TRUE(MetricAppears(
      "tidegate_requests_total{model=\"tiny\",code=\"OK\",finish_reason=\"stop_string\",method="
      "\"ModelInfer\"} 1"));

  grpc::ClientContext second;
  inference::ModelStatisticsResponse statistics;
  ASSERT_TRUE(stub_->ModelStatistics(&second, {}, &statistics).ok());
  EXPECT_EQ(statistics.model_stats(0).inference_count(), 1u);
  EXPECT_EQ(statistics.model_stats(0).inference_stats().success().count(), 1u);
  EXPECT_EQ(statistics.model_stats(0).inference_stats().fail().count(), 0u);
}

TEST_F(InferenceServiceTest, RawRequestsGetRawAnswers) {
  ModelInferRequest request = Request("");
  request.mutable_inputs(0)->clear_contents();
  request.add_raw_input_contents(std::string("\1\0\0\0a", 5));
  std::thread engine([&] {
    const uint64_t id = engine_->WaitForRequest();
    engine_->Emit(id, "hi", {41});
    engine_->End(id, Ended(FinishReason::kMaxTokens));
  });
  grpc::ClientContext context;
  ModelInferResponse answer;
  ASSERT_TRUE(stub_->ModelInfer(&context, request, &answer).ok());
  engine.join();
  EXPECT_EQ(answer.raw_output_contents(0), std::string("\2\0\0\0hi", 6));
}

TEST_F(InferenceServiceTest, ErrorsAndCancelsOfModelInfer) {
  ModelInferRequest request = Request("r-2");
  (*request.mutable_parameters())["temperature"].set_double_param(1000);
  grpc::ClientContext context;
  ModelInferResponse answer;
  const grpc::Status status = stub_->ModelInfer(&context, request, &answer);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("temperature"));
  EXPECT_EQ(DetailOf<google::rpc::RequestInfo>(status)->request_id(), "r-2");

  grpc::ClientContext cancelled;
  std::thread canceller([&] {
    const uint64_t id = engine_->WaitForRequest();
    cancelled.TryCancel();
    engine_->WaitForCancel(id);
  });
  EXPECT_EQ(stub_->ModelInfer(&cancelled, Request(""), &answer).error_code(),
            grpc::StatusCode::CANCELLED);
  canceller.join();
}

TEST_F(InferenceServiceTest, StreamsPiecesOfSeveralRequests) {
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = stub_->ModelStreamInfer(&context);
  ModelInferRequest first = Request("one");
  (*first.mutable_parameters())["triton_enable_empty_final_response"].set_bool_param(true);
  ASSERT_TRUE(stream->Write(first));
  const uint64_t one = EngineId();
  ASSERT_TRUE(stream->Write(Request("two")));
  const uint64_t two = EngineId(one);

  engine_->Emit(one, " upon", {41});
  const ModelInferResponse piece = Next(*stream);
  EXPECT_EQ(piece.id(), "one");
  EXPECT_EQ(TextOf(piece), " upon");
  EXPECT_FALSE(IsFinal(piece));
  engine_->Emit(two, " down", {42});
  EXPECT_EQ(Next(*stream).id(), "two");
  engine_->End(two, Ended(FinishReason::kMaxTokens));
  const ModelInferResponse last = Next(*stream);
  EXPECT_EQ(last.id(), "two");
  EXPECT_EQ(TextOf(last), "");
  EXPECT_TRUE(IsFinal(last));
  ASSERT_TRUE(stream->WritesDone());
  engine_->End(one, Ended(FinishReason::kMaxTokens));
  const ModelInferResponse empty = Next(*stream);
  EXPECT_EQ(empty.outputs_size(), 0);
  EXPECT_TRUE(IsFinal(empty));
  ModelStreamInferResponse none;
  EXPECT_FALSE(stream->Read(&none));
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(MetricAppears("tidegate_open_streams{model=\"tiny\"} 0"));
}

TEST_F(InferenceServiceTest, ErrorsInAStreamAreAnswers) {
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = stub_->ModelStreamInfer(&context);
  ModelInferRequest wrong = Request("bad");
  wrong.set_model_name("huge");
  ASSERT_TRUE(stream->Write(wrong));
  ModelStreamInferResponse answer;
  ASSERT_TRUE(stream->Read(&answer));
  EXPECT_THAT(answer.error_message(), HasSubstr("no model 'huge'"));
  EXPECT_EQ(answer.infer_response().id(), "bad");
  EXPECT_TRUE(IsFinal(answer.infer_response()));
  // The stream goes on.
  ModelInferRequest whole = Request("good");
  (*whole.mutable_parameters())["stream"].set_bool_param(false);
  ASSERT_TRUE(stream->Write(whole));
  const uint64_t id = EngineId();
  engine_->Emit(id, " upon", {41});
  engine_->Emit(id, " a", {42});
  engine_->End(id, Ended(FinishReason::kMaxTokens));
  EXPECT_EQ(TextOf(Next(*stream)), " upon a");
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(InferenceServiceTest, ErrorsEndTheCallWhereTheyAreAskedTo) {
  grpc::ClientContext context;
  context.AddMetadata("triton_grpc_error", "true");
  const std::unique_ptr<Stream> stream = stub_->ModelStreamInfer(&context);
  ASSERT_TRUE(stream->Write(Request("good")));
  const uint64_t id = EngineId();
  ModelInferRequest wrong = Request("bad");
  wrong.set_model_name("huge");
  ASSERT_TRUE(stream->Write(wrong));
  ModelStreamInferResponse answer;
  EXPECT_FALSE(stream->Read(&answer));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(DetailOf<google::rpc::ResourceInfo>(status).has_value());
  engine_->WaitForCancel(id);
}

TEST_F(InferenceServiceTest, ACancelledStreamEndsAllItsRequests) {
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = stub_->ModelStreamInfer(&context);
  ASSERT_TRUE(stream->Write(Request("one")));
  const uint64_t one = EngineId();
  ASSERT_TRUE(stream->Write(Request("two")));
  const uint64_t two = EngineId(one);
  context.TryCancel();
  engine_->WaitForCancel(one);
  engine_->WaitForCancel(two);
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(MetricAppears("tidegate_open_streams{model=\"tiny\"} 0"));
}

TEST_F(InferenceServiceTest, NotMoreThanSomeRequestsOfAStreamAreOpen) {
  grpc::ClientContext context;
  const std::unique_ptr<Stream> stream = stub_->ModelStreamInfer(&context);
  for (size_t i = 0; i <= kMaxInferRequests; ++i) ASSERT_TRUE(stream->Write(Request("")));
  EXPECT_EQ(EngineId(kMaxInferRequests - 1), kMaxInferRequests);
  EXPECT_EQ(engine_->Running().size(), kMaxInferRequests);
  engine_->End(1, Ended(FinishReason::kMaxTokens));
  EXPECT_EQ(EngineId(kMaxInferRequests), kMaxInferRequests + 1);
  context.TryCancel();
  EXPECT_FALSE(stream->Finish().ok());
}

TEST_F(InferenceServiceTest, EveryMethodRefusesWhatIsNoMessage) {
  const auto* service = ModelInferRequest::descriptor()->file()->service(0);
  ASSERT_EQ(service->method_count(), 9);
  for (int m = 0; m < service->method_count(); ++m) {
    const std::string name = service->method(m)->name();
    const RawAnswer answer =
        RawCall(channel_, "/" + service->full_name() + "/" + name, {WireKey(99, 2) + "\x05"});
    if (service->method(m)->client_streaming()) {
      EXPECT_TRUE(answer.status.ok());
      EXPECT_EQ(answer.messages, 1u);
      continue;
    }
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << name;
    EXPECT_THAT(answer.status.error_message(), HasSubstr("(field 99)")) << name;
  }
}

}  // namespace tidegate::inference_service_test
