// One generation that a client has asked for, whatever protocol it speaks: counts it, checks and
// submits the request, and keeps TokenBuffer between the engine and the client. A protocol derives
// from it and sends what Write() gives it (generate_stream.h: gRPC).
//
// Lifetime: shared. The protocol holds it until Closed(), the engine until its last call to the
// sink; so neither can meet a dead object, whichever ends first. Threads: tokens come from the
// decode thread, the rest from threads of the protocol; nothing blocks.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "engine/engine.h"
#include "server/call_access.h"
#include "server/parse_request.h"
#include "server/serving_state.h"
#include "server/token_buffer.h"

namespace tidegate {

class GenerationCall : public OpenStreams::Stream {
 public:
  GenerationCall(const GenerationCall&) = delete;
  ~GenerationCall() override;

 protected:
  // `state` outlives the engine's interest in the call. A `request_id` that is none is replaced.
  GenerationCall(ServingState& state, RpcMethod method, const std::string& request_id);

  // What the client says of a trace (trace_context.h); "" where it says nothing. Before Start().
  void TraceAs(std::string_view traceparent, std::string_view tracestate);

  // Once: checks and submits a v1::GenerateRequest or v1::ChatRequest, if `status` (what the
  // protocol found wrong) is OK, and performs the first move. `self` is this call; `origin`
  // is whose it is, as far as that is known.
  template <typename Request>
  void Start(const Request& request, absl::Status status, CallOrigin origin,
             const std::shared_ptr<GenerationCall>& self);

  // By the protocol: what Write() had is with the client; not `ok`: the client is gone.
  void WriteDone(bool ok);
  // The client has left, or its time is over: `code` says which, for metrics.
  void ClientLeft(absl::StatusCode code);
  // The protocol is done: nothing is owed to the client any more.
  void Closed();

  // To be written next: kWrite..., then WriteDone(); or kFinishWithResult or kFinish, which is the
  // last. One at a time, from any thread.
  virtual void Write(TokenBuffer::Move move) = 0;
  // The client does not read: ends the connection or call, from which ClientLeft() follows. Must
  // not call back itself.
  virtual void Cut() = 0;

  ServingState& state() { return state_; }
  const std::string& request_id() const { return request_id_; }
  // From kWriteStarted on.
  const v1::Started& started() const { return started_; }

 private:
  class Sink;

  void EndUnread() override;  // from OpenStreams
  void KeepAlive() override { Perform(buffer_.KeepAlive()); }
  void OnResult(const GenerationResult& result, uint32_t choice);
  template <typename Request>
  absl::Status Submit(const Request& request, const std::shared_ptr<GenerationCall>& self);
  absl::StatusOr<GenerationRequest> Parse(const v1::GenerateRequest& request,
                                          const ModelInfo& model,
                                          const std::shared_ptr<const Tokenizer>& tokenizer);
  absl::StatusOr<GenerationRequest> Parse(const v1::ChatRequest& request, const ModelInfo& model,
                                          const std::shared_ptr<const Tokenizer>& tokenizer);
  RequestBounds Bounds(const Tokenizer& tokenizer) const;
  void Perform(TokenBuffer::Move move);
  void Audit() const;

  ServingState& state_;
  const RpcMethod method_;
  const std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  CallOrigin origin_;            // of Start()
  StreamGrant grant_;            // until the engine is done
  std::string error_reason_;     // of a request that was turned away
  GenerationAccounts accounts_;  // of the result
  const bool within_limit_;      // of open streams
  std::string request_id_;
  v1::Started started_;
  TokenBuffer buffer_;
  std::unique_ptr<RequestSpan> span_;                           // null: not traced
  uint64_t engine_id_ = 0;                                      // of Submit(); 0: never submitted
  std::atomic<absl::StatusCode> code_ = absl::StatusCode::kOk;  // of the call, for metrics
  std::atomic<uint32_t> reason_ = 0;        // FinishReason; 0: the engine has not ended any choice
  std::atomic<uint32_t> open_choices_ = 0;  // that the engine has not ended
  bool failed_ = false;                     // a choice has; of the decode thread
};

}  // namespace tidegate
