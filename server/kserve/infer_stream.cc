#include "server/kserve/infer_stream.h"

#include <utility>

#include "server/trace_context.h"
#include "server/unary_call.h"
#include "server/wire_messages.h"

namespace tidegate {
namespace {

// Triton's own name for it.
constexpr char kErrorsEndKey[] = "triton_grpc_error";

bool WantsErrorsToEnd(const grpc::CallbackServerContext& context) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find(kErrorsEndKey);
  return found != metadata.end() && found->second == "true";
}

}  // namespace

InferStream::InferStream(ServingState& state, grpc::CallbackServerContext* context)
    : state_(state),
      context_(context),
      traceparent_(OnlyMetadata(*context, kTraceparentKey)),
      tracestate_(OnlyMetadata(*context, kTracestateKey)),
      errors_end_(WantsErrorsToEnd(*context)) {}

InferStream* InferStream::Begin(ServingState& state, grpc::CallbackServerContext* context) {
  const std::shared_ptr<InferStream> stream(new InferStream(state, context));
  stream->self_ = stream;
  // An answer before there is anything to say: a call without one counts as not begun
  // (base/call_window.h).
  stream->StartSendInitialMetadata();
  MutexLock lock(stream->mutex_);
  stream->ReadNext();
  return stream.get();
}

void InferStream::ReadNext() {
  if (reading_ || beginning_ || reads_done_ || abandoned_ || finished_) return;
  if (open_.size() >= kMaxInferRequests) return;  // goes on with Done()
  reading_ = true;
  StartRead(&read_);
}

void InferStream::WriteNext() {
  if (writing_ || answers_.empty()) return;
  writing_ = true;
  write_ = std::move(answers_.front().bytes);
  StartWrite(&write_);
}

void InferStream::FinishIfOver() {
  if (finished_ || beginning_ || writing_ || !open_.empty()) return;
  if (!reads_done_ && !abandoned_) return;
  finished_ = true;
  state_.load.AddTo(*context_);
  Finish(status_);
}

void InferStream::OnReadDone(bool ok) {
  {
    MutexLock lock(mutex_);
    reading_ = false;
    reads_done_ = !ok;
    beginning_ = ok && !abandoned_;
    if (!beginning_) return FinishIfOver();
  }
  BeginRequest();
  MutexLock lock(mutex_);
  beginning_ = false;
  ReadNext();
  FinishIfOver();
}

void InferStream::BeginRequest() {
  // Each request: a key may lose its rights, or reach its limits, while the call is open.
  CallOrigin origin;
  absl::Status status =
      AuthorizeCall(state_.access, *context_, RpcMethod::kModelStreamInfer, origin);
  const std::shared_ptr<StreamedInfer> call =
      StreamedInfer::Create(state_, shared_from_this(), read_, std::move(status));
  {
    MutexLock lock(mutex_);
    open_.emplace(call.get(), call);
  }
  call->TraceAs(traceparent_, tracestate_);
  call->Begin(std::move(origin), call);
  bool abandoned = false;
  {
    MutexLock lock(mutex_);
    abandoned = abandoned_;
  }
  // Abandon() may have come before there was anything to leave.
  if (abandoned) call->Left(absl::StatusCode::kCancelled);
}

void InferStream::Send(StreamedInfer* call,
                       const std::vector<inference::ModelStreamInferResponse>& answers) {
  {
    MutexLock lock(mutex_);
    if (!abandoned_) {
      for (const auto& answer : answers) answers_.push_back({ToBytes(answer), nullptr});
      answers_.back().told = call;
      return WriteNext();
    }
  }
  call->Written(false);
}

void InferStream::OnWriteDone(bool ok) {
  StreamedInfer* told = nullptr;
  {
    MutexLock lock(mutex_);
    writing_ = false;
    told = answers_.front().told;
    answers_.pop_front();
    WriteNext();
    FinishIfOver();
  }
  if (told != nullptr) told->Written(ok);
}

void InferStream::Done(StreamedInfer* call) {
  std::shared_ptr<StreamedInfer> last;  // lives on beyond the lock
  MutexLock lock(mutex_);
  const auto found = open_.find(call);
  last = std::move(found->second);
  open_.erase(found);
  ReadNext();
  FinishIfOver();
}

bool InferStream::EndWith(const absl::Status& status, const ErrorContext& error) {
  const bool denied = absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status);
  if (!errors_end_ && !denied) return false;
  grpc::Status of_call;
  {
    MutexLock lock(mutex_);
    if (abandoned_) return true;
    of_call = ErrorOf(*context_, status, error);
  }
  Abandon(of_call, absl::StatusCode::kCancelled);
  return true;
}

void InferStream::OnCancel() { Abandon(grpc::Status::CANCELLED, CodeOfCancelledCall(*context_)); }

void InferStream::OnDone() {
  const std::shared_ptr<InferStream> last = std::move(self_);  // may destroy *this on return
}

void InferStream::Abandon(const grpc::Status& status, absl::StatusCode code) {
  std::vector<Answer> dropped;
  std::vector<std::shared_ptr<StreamedInfer>> open;
  {
    MutexLock lock(mutex_);
    if (!abandoned_) status_ = status;
    abandoned_ = true;
    while (answers_.size() > (writing_ ? 1 : 0)) {
      dropped.push_back(std::move(answers_.back()));
      answers_.pop_back();
    }
    for (const auto& [pointer, call] : open_) open.push_back(call);
    FinishIfOver();
  }
  for (const Answer& answer : dropped) {
    if (answer.told != nullptr) answer.told->Written(false);
  }
  for (const std::shared_ptr<StreamedInfer>& call : open) call->Left(code);
}

}  // namespace tidegate
