// One request of a ModelStreamInfer call: makes answers of its events, which the call carries.
//
// Lifetime: shared, by the call until Done(), and by the engine. Threads: as GenerationCall.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "grpcpp/grpcpp.h"
#include "server/generation_call.h"
#include "server/kserve/infer_request.h"
#include "server/kserve/infer_response.h"

namespace tidegate {

class InferStream;

class StreamedInfer final : public GenerationCall {
 public:
  // Of a ModelInferRequest in bytes; what is wrong with it, or with its caller (`status`), is its
  // answer. `state` outlives the engine's interest in it.
  static std::shared_ptr<StreamedInfer> Create(ServingState& state,
                                               std::shared_ptr<InferStream> stream,
                                               const grpc::ByteBuffer& request,
                                               absl::Status status);

  using GenerationCall::TraceAs;  // before Begin()
  // Once, and `self` is this: submits it. The stream may be told Done() before this returns.
  void Begin(CallOrigin origin, const std::shared_ptr<StreamedInfer>& self);
  // By the stream: what Send() gave it last is written; not `ok`: it never will be.
  void Written(bool ok);
  // By the stream: nobody reads answers any more. `code`: why, for metrics.
  void Left(absl::StatusCode code) {
    if (!ended_) ClientLeft(code);
  }

 private:
  StreamedInfer(ServingState& state, std::shared_ptr<InferStream> stream, InferPlan plan,
                absl::Status status);

  // From GenerationCall.
  void Write(TokenBuffer::Move move) override;
  void Cut() override;

  void Append(std::string text);
  void AnswerEnd(const GenerationResult& result);
  void AnswerError(const absl::Status& status);
  void Over();  // may destroy *this

  const std::shared_ptr<InferStream> stream_;
  const InferPlan plan_;
  absl::Status status_;              // what is wrong with the request
  WholeText text_;                   // where it does not go out in pieces
  std::atomic<bool> ended_ = false;  // its last answer is with the stream
};

}  // namespace tidegate
