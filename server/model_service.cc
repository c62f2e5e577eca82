#include "server/model_service.h"

#include "base/status_macros.h"
#include "server/conversions.h"
#include "server/unary_call.h"

namespace tidegate {

absl::Status ModelServiceImpl::Describe(const std::string& name, v1::Model& model) const {
  ASSIGN_OR_RETURN(const ModelInfo info, state_.model.Find(name));
  const Engine& engine = state_.engine;
  model = ToProto(info, state_.model.aliases(), engine.context_tokens(), engine.pruning_bounds());
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* ModelServiceImpl::GetModel(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* response) {
  return AnswerUnary<v1::GetModelRequest, v1::GetModelResponse>(
      {context, request, response, RpcMethod::kGetModel}, state_,
      [this](const auto& in, auto& out) { return Describe(in.model(), *out.mutable_model()); });
}

grpc::ServerUnaryReactor* ModelServiceImpl::ListModels(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* response) {
  return AnswerUnary<v1::ListModelsRequest, v1::ListModelsResponse>(
      {context, request, response, RpcMethod::kListModels}, state_,
      [this](const auto&, auto& out) { return Describe("", *out.add_models()); });
}

}  // namespace tidegate
