// GenerationService over the callback API: streams, and the two conversions of the tokenizer.
//
// Thread-safe; reactions do not block. Splitting a text and rendering a chat template run on gRPC's
// thread: sizes and steps are bounded, and the time grows slowly with them (1 MiB takes about as
// long as one token of a large model).
#pragma once

#include "grpcpp/grpcpp.h"
#include "server/serving_state.h"
#include "tidegate/v1/generation.grpc.pb.h"

namespace tidegate {

class GenerationServiceImpl final : public v1::GenerationService::CallbackService {
 public:
  // `state` is not owned.
  explicit GenerationServiceImpl(ServingState& state) : state_(state) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerWriteReactor<v1::GenerateResponse>* Chat(grpc::CallbackServerContext* context,
                                                       const v1::ChatRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;

 private:
  ServingState& state_;
};

}  // namespace tidegate
