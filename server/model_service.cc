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
                                                     const v1::GetModelRequest* request,
                                                     v1::GetModelResponse* response) {
  return FinishUnary(context, Describe(request->model(), *response->mutable_model()), state_,
                     RpcMethod::kGetModel);
}

grpc::ServerUnaryReactor* ModelServiceImpl::ListModels(grpc::CallbackServerContext* context,
                                                       const v1::ListModelsRequest*,
                                                       v1::ListModelsResponse* response) {
  return FinishUnary(context, Describe("", *response->add_models()), state_,
                     RpcMethod::kListModels);
}

}  // namespace tidegate
