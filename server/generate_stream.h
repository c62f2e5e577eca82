// One Generate or Chat call: a GenerationCall over a gRPC stream.
//
// gRPC holds it until OnDone() (self_). Reactions of gRPC run on its threads and never block.
#pragma once

#include <memory>

#include "grpcpp/grpcpp.h"
#include "server/generation_call.h"
#include "server/serving_state.h"
#include "tidegate/v1/generation.grpc.pb.h"

namespace tidegate {

class GenerateStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                             public GenerationCall {
 public:
  // Reads, checks and submits a request: a v1::GenerateRequest or a v1::ChatRequest. gRPC owns the
  // returned reactor. `state` outlives the engine's interest in the stream.
  template <typename Request>
  static GenerateStream* Begin(ServingState& state, grpc::CallbackServerContext* context,
                               const grpc::ByteBuffer& request);

 private:
  GenerateStream(ServingState& state, grpc::CallbackServerContext* context, RpcMethod method,
                 const std::string& request_id)
      : GenerationCall(state, method, request_id), context_(context) {}

  // Reactions of gRPC.
  void OnWriteDone(bool ok) override { WriteDone(ok); }
  void OnCancel() override;
  void OnDone() override;

  // From GenerationCall.
  void Write(TokenBuffer::Move move) override;
  void Cut() override { context_->TryCancel(); }

  void Send(const v1::GenerateResponse& response);
  void FinishWith(const absl::Status& status);

  grpc::CallbackServerContext* const context_;  // valid until OnDone()
  grpc::ByteBuffer write_;                      // the write that is out
  std::shared_ptr<GenerateStream> self_;
};

}  // namespace tidegate
