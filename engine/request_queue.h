// Requests that wait for a place among those that run, in the order in which they came. Not
// thread-safe: its owner guards it with a lock. What has been taken out belongs to whoever took it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/generation.h"

namespace tidegate {

struct WaitingRequest {
  using Clock = std::chrono::steady_clock;

  uint64_t id = 0;
  GenerationRequest request;
  std::shared_ptr<GenerationSink> sink;
  Clock::time_point submitted;

  bool TimeIsUp(Clock::time_point now) const {
    return request.time_limit.has_value() && *request.time_limit <= now;
  }
  // Ends it before it has begun: tells the sink.
  void End(FinishReason reason, const absl::Status& status) const;
};

// What may wait at a time.
struct QueueBounds {
  uint32_t requests = 64;      // --max-waiting
  uint64_t prompt_tokens = 0;  // of all that wait (--max-waiting-tokens); 0: any number
};

// RESOURCE_EXHAUSTED if a request of so many prompt tokens does not fit beside those that wait. An
// empty queue takes a prompt of any length.
absl::Status CheckQueueBounds(const QueueBounds& bounds, size_t requests_waiting,
                              uint64_t prompt_tokens_waiting, uint64_t prompt_tokens);

class RequestQueue {
 public:
  bool empty() const { return requests_.empty(); }
  size_t size() const { return requests_.size(); }
  uint64_t prompt_tokens() const { return prompt_tokens_; }
  const WaitingRequest& front() const { return requests_.front(); }

  void Push(WaitingRequest request) {
    prompt_tokens_ += request.request.prompt.size();
    requests_.push_back(std::move(request));
  }
  WaitingRequest Pop() {
    WaitingRequest first = std::move(requests_.front());
    requests_.pop_front();
    prompt_tokens_ -= first.request.prompt.size();
    return first;
  }
  // Takes out the one with this id. REQUIRES: it is in here.
  WaitingRequest Take(uint64_t id) {
    return std::move(TakeIf([id](const WaitingRequest& request) { return request.id == id; })[0]);
  }
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    for (const WaitingRequest& request : requests_) visit(request);
  }
  // Takes out those for which `wanted(request)` holds.
  template <typename Wanted>
  std::vector<WaitingRequest> TakeIf(const Wanted& wanted) {
    const auto first =
        std::stable_partition(requests_.begin(), requests_.end(),
                              [&](const WaitingRequest& request) { return !wanted(request); });
    std::vector<WaitingRequest> taken(std::make_move_iterator(first),
                                      std::make_move_iterator(requests_.end()));
    requests_.erase(first, requests_.end());
    for (const WaitingRequest& request : taken) prompt_tokens_ -= request.request.prompt.size();
    return taken;
  }

 private:
  std::deque<WaitingRequest> requests_;
  uint64_t prompt_tokens_ = 0;  // of requests_
};

}  // namespace tidegate
