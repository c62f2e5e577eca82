#include "server/kserve/inference_service.h"

#include "base/build_info_values.h"
#include "base/status_macros.h"
#include "server/kserve/infer_call.h"
#include "server/kserve/infer_stream.h"
#include "server/unary_call.h"

namespace tidegate {
namespace {

// Of a shape: any number of elements.
constexpr int64_t kAnyCount = -1;

bool IsReady(const ServingState& state) { return !state.draining && state.engine.ready(); }

// The model by that name and version.
absl::StatusOr<ModelInfo> FindVersion(const ServingState& state, const std::string& name,
                                      const std::string& version) {
  RETURN_IF_ERROR(CheckModelVersion(version));
  return state.model.Find(name);
}

absl::Status TellModelReady(const ServingState& state, const inference::ModelReadyRequest& request,
                            inference::ModelReadyResponse& response) {
  const absl::Status found = FindVersion(state, request.name(), request.version()).status();
  // Before the engine has attached once, nobody knows whether the name is right.
  if (absl::IsUnavailable(found)) return absl::OkStatus();
  RETURN_IF_ERROR(found);
  response.set_ready(IsReady(state));
  return absl::OkStatus();
}

void DescribeServer(inference::ServerMetadataResponse& response) {
  response.set_name("tidegate");
  response.set_version(TIDEGATE_VERSION);
  for (const char* extension :
       {"binary_tensor_data", "model_repository", "parameters", "statistics"}) {
    response.add_extensions(extension);
  }
}

using TensorMetadata = inference::ModelMetadataResponse::TensorMetadata;

void SetTensor(const char* name, const char* datatype, int64_t count, TensorMetadata& tensor) {
  tensor.set_name(name);
  tensor.set_datatype(datatype);
  tensor.add_shape(count);
}

absl::Status DescribeModel(const ServingState& state,
                           const inference::ModelMetadataRequest& request,
                           inference::ModelMetadataResponse& response) {
  ASSIGN_OR_RETURN(const ModelInfo info, FindVersion(state, request.name(), request.version()));
  response.set_name(info.name);
  response.add_versions(kModelVersion);
  response.set_platform("tidegate");
  const auto input = [&](const char* name, const char* datatype, int64_t count = 1) {
    SetTensor(name, datatype, count, *response.add_inputs());
  };
  input("text_input", "BYTES");
  input("stream", "BOOL");
  input("exclude_input_in_output", "BOOL");
  input("sampling_parameters", "BYTES");
  input("max_tokens", "UINT32");
  input("min_tokens", "UINT32");
  input("temperature", "FP32");
  input("top_k", "INT32");
  input("top_p", "FP32");
  input("min_p", "FP32");
  input("repetition_penalty", "FP32");
  input("presence_penalty", "FP32");
  input("frequency_penalty", "FP32");
  input("seed", "UINT64");
  input("stop", "BYTES", kAnyCount);
  input("return_finish_reason", "BOOL");
  input("return_num_input_tokens", "BOOL");
  input("return_num_output_tokens", "BOOL");
  SetTensor("text_output", "BYTES", 1, *response.add_outputs());
  SetTensor("finish_reason", "BYTES", 1, *response.add_outputs());
  SetTensor("num_input_tokens", "UINT32", 1, *response.add_outputs());
  SetTensor("num_output_tokens", "UINT32", 1, *response.add_outputs());
  return absl::OkStatus();
}

void SetDuration(const RequestTotals::Span& span, inference::StatisticDuration& duration) {
  constexpr double kNanosPerSecond = 1e9;
  duration.set_count(span.count);
  duration.set_ns(static_cast<uint64_t>(span.seconds * kNanosPerSecond));
}

absl::Status TellStatistics(const ServingState& state,
                            const inference::ModelStatisticsRequest& request,
                            inference::ModelStatisticsResponse& response) {
  ASSIGN_OR_RETURN(const ModelInfo info, FindVersion(state, request.name(), request.version()));
  if (state.metrics == nullptr) {
    return absl::FailedPreconditionError(
        "the server keeps no statistics: its --metrics-listen is off");
  }
  const RequestTotals totals = state.metrics->Totals();
  inference::ModelStatistics& statistics = *response.add_model_stats();
  statistics.set_name(info.name);
  statistics.set_version(kModelVersion);
  statistics.set_inference_count(totals.succeeded);
  statistics.set_execution_count(state.engine.stats().steps);
  inference::InferStatistics& times = *statistics.mutable_inference_stats();
  SetDuration({totals.succeeded, totals.duration.seconds}, *times.mutable_success());
  SetDuration({totals.failed, 0}, *times.mutable_fail());
  SetDuration(totals.queue, *times.mutable_queue());
  SetDuration(totals.prefill, *times.mutable_compute_input());
  SetDuration(totals.decode, *times.mutable_compute_infer());
  return absl::OkStatus();
}

absl::Status ListModels(const ServingState& state, const inference::RepositoryIndexRequest& request,
                        inference::RepositoryIndexResponse& response) {
  const absl::StatusOr<ModelInfo> info = state.model.Find("");
  const bool ready = IsReady(state);
  if (!info.ok() || !request.repository_name().empty() || (request.ready() && !ready)) {
    return absl::OkStatus();
  }
  auto& model = *response.add_models();
  model.set_name(info->name);
  model.set_version(kModelVersion);
  model.set_state(ready ? "READY" : "UNAVAILABLE");
  if (!ready) model.set_reason(state.draining ? "draining" : "the weight store is away");
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* InferenceServiceImpl::ServerLive(grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  return AnswerUnary<inference::ServerLiveRequest, inference::ServerLiveResponse>(
      {context, request, response, RpcMethod::kServerLive}, state_, [](const auto&, auto& out) {
        out.set_live(true);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::ServerReady(grpc::CallbackServerContext* context,
                                                            const grpc::ByteBuffer* request,
                                                            grpc::ByteBuffer* response) {
  return AnswerUnary<inference::ServerReadyRequest, inference::ServerReadyResponse>(
      {context, request, response, RpcMethod::kServerReady}, state_,
      [this](const auto&, auto& out) {
        out.set_ready(IsReady(state_));
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::ModelReady(grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  return AnswerUnary<inference::ModelReadyRequest, inference::ModelReadyResponse>(
      {context, request, response, RpcMethod::kModelReady}, state_,
      [this](const auto& in, auto& out) { return TellModelReady(state_, in, out); });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::ServerMetadata(grpc::CallbackServerContext* context,
                                                               const grpc::ByteBuffer* request,
                                                               grpc::ByteBuffer* response) {
  return AnswerUnary<inference::ServerMetadataRequest, inference::ServerMetadataResponse>(
      {context, request, response, RpcMethod::kServerMetadata}, state_, [](const auto&, auto& out) {
        DescribeServer(out);
        return absl::OkStatus();
      });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::ModelMetadata(grpc::CallbackServerContext* context,
                                                              const grpc::ByteBuffer* request,
                                                              grpc::ByteBuffer* response) {
  return AnswerUnary<inference::ModelMetadataRequest, inference::ModelMetadataResponse>(
      {context, request, response, RpcMethod::kModelMetadata}, state_,
      [this](const auto& in, auto& out) { return DescribeModel(state_, in, out); });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::ModelInfer(grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  return InferCall::Begin(state_, context, *request, response);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* InferenceServiceImpl::ModelStreamInfer(
    grpc::CallbackServerContext* context) {
  return InferStream::Begin(state_, context);
}

grpc::ServerUnaryReactor* InferenceServiceImpl::ModelStatistics(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  return AnswerUnary<inference::ModelStatisticsRequest, inference::ModelStatisticsResponse>(
      {context, request, response, RpcMethod::kModelStatistics}, state_,
      [this](const auto& in, auto& out) { return TellStatistics(state_, in, out); });
}

grpc::ServerUnaryReactor* InferenceServiceImpl::RepositoryIndex(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  return AnswerUnary<inference::RepositoryIndexRequest, inference::RepositoryIndexResponse>(
      {context, request, response, RpcMethod::kRepositoryIndex}, state_,
      [this](const auto& in, auto& out) { return ListModels(state_, in, out); });
}

}  // namespace tidegate
