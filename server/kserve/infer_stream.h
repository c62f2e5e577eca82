// One ModelStreamInfer call: any number of requests, each a StreamedInfer, whose answers share one
// stream of gRPC. An error of a request is an answer (error_message), unless the call's metadata
// say triton_grpc_error: true; then the first one ends the call with its status.
//
// Further requests are not read while kMaxInferRequests are open. Lifetime: shared by gRPC, until
// OnDone(), and by its requests. Threads: reactions of gRPC run on its threads and never block;
// answers come from the decode thread too.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "grpcpp/grpcpp.h"
#include "inference/grpc_service.pb.h"
#include "server/kserve/streamed_infer.h"
#include "server/serving_state.h"
#include "server/status_mapping.h"

namespace tidegate {

inline constexpr size_t kMaxInferRequests = 64;  // of one call, at once

class InferStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                          public std::enable_shared_from_this<InferStream> {
 public:
  // gRPC owns the returned reactor. `state` outlives the engine's interest in the requests.
  static InferStream* Begin(ServingState& state, grpc::CallbackServerContext* context);

  // By its requests, between their Begin() and Done().

  // Writes the answers, in order, and then tells `call`.
  void Send(StreamedInfer* call, const std::vector<inference::ModelStreamInferResponse>& answers);
  // The request is over, and waits for no answer to be written. Lets go of it.
  void Done(StreamedInfer* call);
  // Whether an error ends the whole call, and does so: one of the key always does.
  bool EndWith(const absl::Status& status, const ErrorContext& error);
  void Cancel() { context_->TryCancel(); }

 private:
  struct Answer {
    grpc::ByteBuffer bytes;
    StreamedInfer* told = nullptr;  // when it is written; null: nobody
  };

  InferStream(ServingState& state, grpc::CallbackServerContext* context);

  // Reactions of gRPC.
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void BeginRequest();
  void ReadNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FinishIfOver() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Nothing is written any more: ends the requests that are open, and with the last the call.
  // `code`: why they end, for metrics.
  void Abandon(const grpc::Status& status, absl::StatusCode code);

  ServingState& state_;
  grpc::CallbackServerContext* const context_;  // valid until OnDone()
  const std::string traceparent_, tracestate_;
  const bool errors_end_;   // triton_grpc_error
  grpc::ByteBuffer read_;   // of the read that is out
  grpc::ByteBuffer write_;  // of the write that is out
  Mutex mutex_;
  std::unordered_map<StreamedInfer*, std::shared_ptr<StreamedInfer>> open_ ABSL_GUARDED_BY(mutex_);
  std::deque<Answer> answers_ ABSL_GUARDED_BY(mutex_);  // the first is out while writing_
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;        // or beginning what was read
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool beginning_ ABSL_GUARDED_BY(mutex_) = false;
  bool reads_done_ ABSL_GUARDED_BY(mutex_) = false;  // the client sends no more
  bool abandoned_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mutex_);  // of the call
  std::shared_ptr<InferStream> self_;
};

}  // namespace tidegate
