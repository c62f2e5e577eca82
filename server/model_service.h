// ModelService: what is served, within which bounds. Thread-safe; reactions do not block.
#pragma once

#include "grpcpp/grpcpp.h"
#include "server/serving_state.h"
#include "tidegate/v1/model.grpc.pb.h"

namespace tidegate {

class ModelServiceImpl final : public v1::ModelService::CallbackService {
 public:
  // `state` is not owned.
  explicit ModelServiceImpl(const ServingState& state) : state_(state) {}

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;

 private:
  absl::Status Describe(const std::string& name, v1::Model& model) const;

  const ServingState& state_;
};

}  // namespace tidegate
