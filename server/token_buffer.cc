#include "server/token_buffer.h"

#include <utility>

#include "base/check.h"

namespace tidegate {
namespace {

// The status of a stream that ended without a result for the client; OK if there is one.
absl::Status EndStatus(const GenerationResult& result) {
  if (result.reason != FinishReason::kError && result.reason != FinishReason::kCancelled) {
    return absl::OkStatus();
  }
  if (!result.status.ok()) return result.status;
  return result.reason == FinishReason::kCancelled
             ? absl::CancelledError("the request was cancelled")
             : absl::InternalError("the engine gave up without a reason");
}

}  // namespace

size_t TokenBuffer::PendingBytes() const { return text_.size() + ids_.size() * sizeof(TokenId); }

TokenBuffer::Step TokenBuffer::Next() {
  Step step;
  if (!open_ || finished_ || outstanding_ > 0) return step;
  if (client_gone_ || overflow_) {
    finished_ = true;
    step.action = Action::kFinish;
    step.status = client_gone_ ? absl::CancelledError("the client has left")
                               : absl::CancelledError("the client does not read its stream");
  } else if (!started_) {
    started_ = true;
    ++outstanding_;
    step.action = Action::kWriteStarted;
  } else if (!text_.empty() || !ids_.empty()) {
    ++outstanding_;
    step.action = Action::kWriteTokens;
    step.text = std::exchange(text_, {});
    step.ids = std::exchange(ids_, {});
  } else if (result_.has_value()) {
    finished_ = true;
    step.status = EndStatus(*result_);
    step.action = step.status.ok() ? Action::kFinishWithResult : Action::kFinish;
    step.result = *result_;
  }
  return step;
}

TokenBuffer::Step TokenBuffer::Start() {
  MutexLock lock(mutex_);
  CHECK(!open_);
  open_ = true;
  return Next();
}

TokenBuffer::Step TokenBuffer::Reject(absl::Status status) {
  MutexLock lock(mutex_);
  CHECK(!open_ && !status.ok());
  open_ = true;
  finished_ = true;
  Step step;
  step.action = Action::kFinish;
  step.status = std::move(status);
  return step;
}

TokenBuffer::Step TokenBuffer::Tokens(std::string_view text, std::span<const TokenId> ids) {
  MutexLock lock(mutex_);
  if (client_gone_ || overflow_ || finished_ || result_.has_value()) return {};
  text_.append(text);
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  if (PendingBytes() <= limit_bytes_) return Next();
  overflow_ = true;
  text_ = {};
  ids_ = {};
  ++outstanding_;
  Step step;
  step.action = Action::kAbort;
  return step;
}

TokenBuffer::Step TokenBuffer::Result(const GenerationResult& result) {
  MutexLock lock(mutex_);
  if (!result_.has_value()) result_ = result;
  return Next();
}

TokenBuffer::Step TokenBuffer::WriteDone(bool ok) {
  MutexLock lock(mutex_);
  CHECK(outstanding_ > 0);
  --outstanding_;
  if (!ok) client_gone_ = true;
  return Next();
}

TokenBuffer::Step TokenBuffer::AbortDone() {
  MutexLock lock(mutex_);
  CHECK(overflow_ && outstanding_ > 0);
  --outstanding_;
  return Next();
}

TokenBuffer::Step TokenBuffer::ClientGone() {
  MutexLock lock(mutex_);
  client_gone_ = true;
  return Next();
}

bool TokenBuffer::client_gone() const {
  MutexLock lock(mutex_);
  return client_gone_;
}

}  // namespace tidegate
