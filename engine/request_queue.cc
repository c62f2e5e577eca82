#include "engine/request_queue.h"

#include <algorithm>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error_reason.h"

namespace tidegate {

void WaitingRequest::End(FinishReason reason, const absl::Status& status) const {
  GenerationResult result;
  result.reason = reason;
  result.status = status;
  result.accounts.prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  result.accounts.queue_seconds = std::chrono::duration<double>(Clock::now() - submitted).count();
  for (const std::shared_ptr<GenerationSink>& sink : sinks) {
    sink->OnDone(result);
    result.accounts.prompt_tokens = 0;  // It counts once.
  }
}

absl::Status CheckQueueBounds(const QueueBounds& bounds, size_t requests_waiting,
                              uint64_t prompt_tokens_waiting, uint64_t prompt_tokens) {
  if (requests_waiting >= bounds.requests) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", requests_waiting, " requests wait already and ",
                     "--max-waiting is ", bounds.requests, "; retry later"));
  }
  if (bounds.prompt_tokens == 0 || requests_waiting == 0) return absl::OkStatus();
  if (prompt_tokens_waiting + prompt_tokens > bounds.prompt_tokens) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the queue is full: requests with ", prompt_tokens_waiting,
        " prompt tokens wait already, this one has ", prompt_tokens, " and --max-waiting-tokens ",
        "is ", bounds.prompt_tokens, "; retry later or send a shorter prompt"));
  }
  return absl::OkStatus();
}

absl::Status CheckQueueShare(uint32_t max_waiting, double share, size_t waiting_of_client) {
  if (share >= 1) return absl::OkStatus();
  const size_t places = std::max<size_t>(1, static_cast<size_t>(share * max_waiting));
  if (waiting_of_client < places) return absl::OkStatus();
  return WithErrorReason(
      absl::ResourceExhaustedError(absl::StrCat(waiting_of_client,
                                                " requests of this client wait already, its whole "
                                                "part of the queue; wait for one to begin")),
      kQueueShareLimit);
}

uint64_t ClientKey(const GenerationRequest& request) { return absl::HashOf(request.client); }

size_t RequestQueue::CountOf(uint64_t client) const {
  return static_cast<size_t>(std::ranges::count(needs_, client, &SequenceNeed::client));
}

void RequestQueue::Push(WaitingRequest request) {
  const GenerationRequest& wanted = request.request;
  needs_.push_back({.id = request.id,
                    .client = ClientKey(wanted),
                    .priority = wanted.priority,
                    .prompt_rows = static_cast<uint32_t>(wanted.prompt.size()),
                    .choices = wanted.choices});
  prompt_tokens_ += wanted.prompt.size();
  if (wanted.time_limit.has_value()) first_limit_ = std::min(first_limit_, *wanted.time_limit);
  requests_.push_back(std::move(request));
}

WaitingRequest RequestQueue::Take(uint64_t id) {
  const auto need = std::ranges::find(needs_, id, &SequenceNeed::id);
  CHECK(need != needs_.end());
  const auto at = requests_.begin() + (need - needs_.begin());
  WaitingRequest taken = std::move(*at);
  requests_.erase(at);
  needs_.erase(need);
  prompt_tokens_ -= taken.request.prompt.size();
  return taken;
}

std::vector<WaitingRequest> RequestQueue::TakeExpired(Clock::time_point now) {
  if (now < first_limit_) return {};
  first_limit_ = Clock::time_point::max();
  return TakeIf([&](const WaitingRequest& request) {
    if (request.TimeIsUp(now)) return true;
    if (const auto& limit = request.request.time_limit; limit.has_value()) {
      first_limit_ = std::min(first_limit_, *limit);
    }
    return false;
  });
}

}  // namespace tidegate
