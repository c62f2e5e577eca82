// One Generate or Chat call: the gRPC stream on one side, the engine's sink on the other,
// TokenBuffer between them.
//
// Lifetime: shared. gRPC holds it until OnDone() (self_), the engine until its last call to the
// sink; so neither can meet a dead object, whichever ends first. Threads: reactions of gRPC run on
// its threads and never block; tokens come from the decode thread.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "engine/engine.h"
#include "grpcpp/grpcpp.h"
#include "server/parse_request.h"
#include "server/serving_state.h"
#include "server/token_buffer.h"
#include "tidegate/v1/generation.grpc.pb.h"

namespace tidegate {

class GenerateStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                             private OpenStreams::Stream {
 public:
  // Reads, checks and submits a request: a v1::GenerateRequest or a v1::ChatRequest. gRPC owns the
  // returned reactor. `state` outlives the engine's interest in the stream.
  template <typename Request>
  static GenerateStream* Begin(ServingState& state, grpc::CallbackServerContext* context,
                               const grpc::ByteBuffer& request);
  ~GenerateStream() override;

 private:
  class Sink;

  GenerateStream(ServingState& state, grpc::CallbackServerContext* context, RpcMethod method,
                 const std::string& request_id);

  // Reactions of gRPC.
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // From OpenStreams.
  void EndUnread() override;

  // From the engine.
  void OnResult(const GenerationResult& result);

  template <typename Request>
  absl::Status Submit(const Request& request, const std::shared_ptr<GenerateStream>& self);
  absl::StatusOr<GenerationRequest> Parse(const v1::GenerateRequest& request,
                                          const ModelInfo& model,
                                          const std::shared_ptr<const Tokenizer>& tokenizer);
  absl::StatusOr<GenerationRequest> Parse(const v1::ChatRequest& request, const ModelInfo& model,
                                          const std::shared_ptr<const Tokenizer>& tokenizer);
  RequestBounds Bounds(const Tokenizer& tokenizer) const;
  void Perform(TokenBuffer::Move move);
  void Write(const v1::GenerateResponse& response);
  void FinishWith(const absl::Status& status);

  ServingState& state_;
  grpc::CallbackServerContext* const context_;  // valid until OnDone()
  const RpcMethod method_;
  const bool within_limit_;  // of open streams
  std::string request_id_;
  v1::Started started_;
  TokenBuffer buffer_;
  uint64_t engine_id_ = 0;                                      // of Submit(); 0: never submitted
  grpc::ByteBuffer write_;                                      // the write that is out
  std::atomic<absl::StatusCode> code_ = absl::StatusCode::kOk;  // of the call, for metrics
  std::atomic<uint32_t> reason_ = 0;  // FinishReason; 0: the engine has not ended it
  std::shared_ptr<GenerateStream> self_;
};

}  // namespace tidegate
