#include "engine/request_queue.h"

#include "absl/strings/str_cat.h"

namespace tidegate {

void WaitingRequest::End(FinishReason reason, const absl::Status& status) const {
  GenerationResult result;
  result.reason = reason;
  result.status = status;
  result.accounts.prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  result.accounts.queue_seconds = std::chrono::duration<double>(Clock::now() - submitted).count();
  sink->OnDone(result);
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

}  // namespace tidegate
