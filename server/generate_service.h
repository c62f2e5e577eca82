// GenerationService over the callback API: streams, their end by request id, and the two
// conversions of the tokenizer.
//
// Thread-safe; reactions do not block. Splitting a text and rendering a chat template run on gRPC's
// thread: sizes and steps are bounded, and the time grows slowly with them (1 MiB takes about as
// long as one token of a large model).
#pragma once

#include "grpcpp/grpcpp.h"
#include "server/serving_state.h"
#include "tidegate/v1/generation.grpc.pb.h"

namespace tidegate {

// Requests come as bytes: wire_messages.h says why.
using RawGenerationService = v1::GenerationService::WithRawCallbackMethod_Generate<
    v1::GenerationService::WithRawCallbackMethod_Chat<
        v1::GenerationService::WithRawCallbackMethod_Tokenize<
            v1::GenerationService::WithRawCallbackMethod_Detokenize<
                v1::GenerationService::WithRawCallbackMethod_Cancel<
                    v1::GenerationService::Service>>>>>;

class GenerationServiceImpl final : public RawGenerationService {
 public:
  // `state` is not owned.
  explicit GenerationServiceImpl(ServingState& state) : state_(state) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Chat(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override;

 private:
  ServingState& state_;
};

}  // namespace tidegate
