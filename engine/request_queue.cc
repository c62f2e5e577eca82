#include "engine/request_queue.h"

namespace tidegate {

void WaitingRequest::End(FinishReason reason, const absl::Status& status) const {
  GenerationResult result;
  result.reason = reason;
  result.status = status;
  result.accounts.prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  result.accounts.queue_seconds = std::chrono::duration<double>(Clock::now() - submitted).count();
  sink->OnDone(result);
}

}  // namespace tidegate
