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

size_t TokenBuffer::PendingBytes() const {
  return text_.size() + ids_.size() * sizeof(TokenId) + logprob_bytes_;
}

TokenBuffer::Move TokenBuffer::Next() {
  Move move;
  if (!open_ || finished_ || outstanding_ > 0) return move;
  if (client_gone_ || overflow_) {
    finished_ = true;
    move.action = Action::kFinish;
    move.status = client_gone_ ? absl::CancelledError("the client has left")
                               : absl::CancelledError("the client does not read its stream");
  } else if (!started_) {
    started_ = true;
    ++outstanding_;
    move.action = Action::kWriteStarted;
  } else if (!text_.empty() || !ids_.empty()) {
    ++outstanding_;
    move.action = Action::kWriteTokens;
    move.text = std::exchange(text_, {});
    move.ids = std::exchange(ids_, {});
    move.logprobs = std::exchange(logprobs_, {});
    logprob_bytes_ = 0;
    progress_.reset();
  } else if (result_.has_value()) {
    finished_ = true;
    move.status = EndStatus(*result_);
    move.action = move.status.ok() ? Action::kFinishWithResult : Action::kFinish;
    move.result = *result_;
  } else if (progress_.has_value()) {
    ++outstanding_;
    move.action = Action::kWriteProgress;
    move.progress = *std::exchange(progress_, std::nullopt);
  }
  return move;
}

TokenBuffer::Move TokenBuffer::Start() {
  MutexLock lock(mutex_);
  CHECK(!open_);
  open_ = true;
  return Next();
}

TokenBuffer::Move TokenBuffer::Reject(absl::Status status) {
  MutexLock lock(mutex_);
  CHECK(!open_ && !status.ok());
  open_ = true;
  finished_ = true;
  Move move;
  move.action = Action::kFinish;
  move.status = std::move(status);
  return move;
}

TokenBuffer::Move TokenBuffer::Tokens(std::string_view text, std::span<const TokenId> ids,
                                      std::span<const TokenLogprobs> logprobs) {
  MutexLock lock(mutex_);
  if (client_gone_ || overflow_ || finished_ || result_.has_value()) return {};
  text_.append(text);
  ids_.insert(ids_.end(), ids.begin(), ids.end());
  for (const TokenLogprobs& one : logprobs) {
    logprobs_.push_back(one);
    logprob_bytes_ += sizeof(one) + one.top.size() * sizeof(TopLogprob);
  }
  if (PendingBytes() <= limit_bytes_) return Next();
  overflow_ = true;
  text_ = {};
  ids_ = {};
  logprobs_ = {};
  logprob_bytes_ = 0;
  ++outstanding_;
  Move move;
  move.action = Action::kAbort;
  return move;
}

TokenBuffer::Move TokenBuffer::Progress(const PromptProgress& progress) {
  MutexLock lock(mutex_);
  if (client_gone_ || overflow_ || finished_ || result_.has_value()) return {};
  progress_ = progress;
  return Next();
}

TokenBuffer::Move TokenBuffer::Result(const GenerationResult& result) {
  MutexLock lock(mutex_);
  if (!result_.has_value()) result_ = result;
  return Next();
}

TokenBuffer::Move TokenBuffer::WriteDone(bool ok) {
  MutexLock lock(mutex_);
  CHECK(outstanding_ > 0);
  --outstanding_;
  if (!ok) client_gone_ = true;
  return Next();
}

TokenBuffer::Move TokenBuffer::AbortDone() {
  MutexLock lock(mutex_);
  CHECK(overflow_ && outstanding_ > 0);
  --outstanding_;
  return Next();
}

TokenBuffer::Move TokenBuffer::ClientGone() {
  MutexLock lock(mutex_);
  client_gone_ = true;
  return Next();
}

bool TokenBuffer::client_gone() const {
  MutexLock lock(mutex_);
  return client_gone_;
}

}  // namespace tidegate
