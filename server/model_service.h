// ModelService: what is served, within which bounds. Thread-safe; reactions do not block.
#pragma once

#include "grpcpp/grpcpp.h"
#include "server/serving_state.h"
#include "tidegate/v1/model.grpc.pb.h"

namespace tidegate {

// Requests come as bytes: wire_messages.h says why.
using RawModelService = v1::ModelService::WithRawCallbackMethod_GetModel<
    v1::ModelService::WithRawCallbackMethod_ListModels<v1::ModelService::Service>>;

class ModelServiceImpl final : public RawModelService {
 public:
  // `state` is not owned.
  explicit ModelServiceImpl(const ServingState& state) : state_(state) {}

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;

 private:
  absl::Status Describe(const std::string& name, v1::Model& model) const;

  const ServingState& state_;
};

}  // namespace tidegate
