#include "server/token_buffer.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"

namespace tidegate {
namespace {

// Bounds a message: some 16 bytes each.
constexpr size_t kLogprobsPerWrite = 8192;

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

void TokenBuffer::Expect(uint32_t choices) {
  MutexLock lock(mutex_);
  CHECK(!open_ && choices > 0);
  choices_.resize(choices);
}

void TokenBuffer::TakePromptLogprobs(Move& move) {
  ++outstanding_;
  move.action = Action::kWritePromptLogprobs;
  const size_t each = prompt_logprobs_[0].top.size() + 1;
  const size_t count = std::min(prompt_ids_.size(), std::max<size_t>(kLogprobsPerWrite / each, 1));
  const auto ids_end = prompt_ids_.begin() + static_cast<std::ptrdiff_t>(count);
  const auto end = prompt_logprobs_.begin() + static_cast<std::ptrdiff_t>(count);
  move.first = prompt_first_;
  move.ids.assign(prompt_ids_.begin(), ids_end);
  move.logprobs.assign(std::make_move_iterator(prompt_logprobs_.begin()),
                       std::make_move_iterator(end));
  prompt_ids_.erase(prompt_ids_.begin(), ids_end);
  prompt_logprobs_.erase(prompt_logprobs_.begin(), end);
  prompt_first_ += static_cast<uint32_t>(count);
  progress_.reset();
}

void TokenBuffer::TakeTokens(Pending& pending, Move& move) {
  ++outstanding_;
  move.action = Action::kWriteTokens;
  move.text = std::exchange(pending.text, {});
  move.ids = std::exchange(pending.ids, {});
  move.logprobs = std::exchange(pending.logprobs, {});
  pending.logprob_bytes = 0;
  progress_.reset();
}

void TokenBuffer::TakeResult(Pending& pending, Move& move) {
  pending.over = true;
  ++over_;
  move.result = *pending.result;
  move.status = EndStatus(*pending.result);
  finished_ = !move.status.ok() || over_ == choices_.size();
  if (!finished_) ++outstanding_;
  move.action = !move.status.ok() ? Action::kFinish
                : finished_       ? Action::kFinishWithResult
                                  : Action::kWriteResult;
}

void TokenBuffer::NextOfChoices(Move& move) {
  for (size_t tried = 0; tried < choices_.size(); ++tried) {
    move.choice = turn_;
    Pending& pending = choices_[turn_];
    turn_ = (turn_ + 1) % static_cast<uint32_t>(choices_.size());
    if (pending.has_tokens()) return TakeTokens(pending, move);
    if (pending.result.has_value() && !pending.over) return TakeResult(pending, move);
  }
}

TokenBuffer::Move TokenBuffer::Next() {
  Move move;
  if (!open_ || finished_ || outstanding_ > 0) return move;
  if (client_gone_ || overflow_) {
    finished_ = true;
    move.action = Action::kFinish;
    move.status = client_gone_ ? absl::CancelledError("the client has left")
                               : absl::CancelledError("the client does not read its stream");
    return move;
  }
  if (!started_) {
    started_ = true;
    ++outstanding_;
    move.action = Action::kWriteStarted;
    return move;
  }
  if (!prompt_ids_.empty()) {
    TakePromptLogprobs(move);
    return move;
  }
  NextOfChoices(move);
  if (move.action != Action::kNone || !progress_.has_value()) return move;
  ++outstanding_;
  move.action = Action::kWriteProgress;
  move.progress = *std::exchange(progress_, std::nullopt);
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

bool TokenBuffer::Drops(uint32_t choice) const {
  return client_gone_ || overflow_ || finished_ || choices_[choice].result.has_value();
}

TokenBuffer::Move TokenBuffer::Tokens(std::string_view text, std::span<const TokenId> ids,
                                      std::span<const TokenLogprobs> logprobs, uint32_t choice) {
  MutexLock lock(mutex_);
  if (Drops(choice)) return {};
  Pending& pending = choices_[choice];
  pending.text.append(text);
  pending.ids.insert(pending.ids.end(), ids.begin(), ids.end());
  for (const TokenLogprobs& one : logprobs) {
    pending.logprobs.push_back(one);
    pending.logprob_bytes += sizeof(one) + one.top.size() * sizeof(TopLogprob);
  }
  size_t bytes = 0;
  for (const Pending& one : choices_) bytes += one.bytes();
  if (bytes <= limit_bytes_) return Next();
  overflow_ = true;
  choices_ = std::vector<Pending>(choices_.size());
  ++outstanding_;
  Move move;
  move.action = Action::kAbort;
  return move;
}

TokenBuffer::Move TokenBuffer::PromptLogprobs(uint32_t first, std::span<const TokenId> ids,
                                              std::span<const TokenLogprobs> logprobs) {
  MutexLock lock(mutex_);
  if (Drops(0) || ids.empty()) return {};
  CHECK(ids.size() == logprobs.size());
  if (prompt_ids_.empty()) prompt_first_ = first;
  prompt_ids_.insert(prompt_ids_.end(), ids.begin(), ids.end());
  prompt_logprobs_.insert(prompt_logprobs_.end(), logprobs.begin(), logprobs.end());
  return Next();
}

TokenBuffer::Move TokenBuffer::KeepAlive() {
  MutexLock lock(mutex_);
  Move move;
  // With nothing out, whatever could be written has been.
  if (!started_ || finished_ || outstanding_ > 0) return move;
  ++outstanding_;
  move.action = Action::kWriteKeepAlive;
  return move;
}

TokenBuffer::Move TokenBuffer::Progress(const PromptProgress& progress) {
  MutexLock lock(mutex_);
  if (Drops(0)) return {};
  progress_ = progress;
  return Next();
}

TokenBuffer::Move TokenBuffer::Result(const GenerationResult& result, uint32_t choice) {
  MutexLock lock(mutex_);
  Pending& pending = choices_[choice];
  if (!pending.result.has_value()) pending.result = result;
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
