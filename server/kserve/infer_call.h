// One ModelInfer call: gathers the events of a GenerationCall into one answer.
//
// gRPC holds it until OnDone(). Threads: reactions of gRPC run on its threads and never block.
#pragma once

#include <memory>

#include "grpcpp/grpcpp.h"
#include "server/generation_call.h"
#include "server/kserve/infer_request.h"
#include "server/kserve/infer_response.h"

namespace tidegate {

class InferCall final : public grpc::ServerUnaryReactor, public GenerationCall {
 public:
  // Reads, checks and submits a request. gRPC owns the returned reactor. `state` outlives the
  // engine's interest in the call; `response` is filled before the call ends well.
  static InferCall* Begin(ServingState& state, grpc::CallbackServerContext* context,
                          const grpc::ByteBuffer& request, grpc::ByteBuffer* response);

 private:
  InferCall(ServingState& state, grpc::CallbackServerContext* context, grpc::ByteBuffer* response,
            InferPlan plan);

  // Reactions of gRPC.
  void OnCancel() override;
  void OnDone() override;

  // From GenerationCall.
  void Write(TokenBuffer::Move move) override;
  void Cut() override { context_->TryCancel(); }

  void Answer(const GenerationResult& result);
  void FinishWith(const absl::Status& status);

  grpc::CallbackServerContext* const context_;  // valid until OnDone()
  grpc::ByteBuffer* const response_;            // the same
  const InferPlan plan_;
  WholeText text_;
  std::shared_ptr<InferCall> self_;
};

}  // namespace tidegate
