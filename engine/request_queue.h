// Requests that wait for a place among those that run, in the order in which they came. Not
// thread-safe: its owner guards it with a lock. What has been taken out belongs to whoever took it.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/generation.h"
#include "engine/scheduler.h"

namespace tidegate {

struct WaitingRequest {
  using Clock = std::chrono::steady_clock;

  uint64_t id = 0;  // of its first choice; those of the others follow
  GenerationRequest request;
  std::vector<std::shared_ptr<GenerationSink>> sinks;  // of its choices
  Clock::time_point submitted;

  bool TimeIsUp(Clock::time_point now) const {
    return request.time_limit.has_value() && *request.time_limit <= now;
  }
  // Ends it before it has begun: tells the sinks.
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

// RESOURCE_EXHAUSTED (kQueueShareLimit) if a client of which so many requests wait has no further
// place: `share` of `max_waiting` are its own, one at least.
absl::Status CheckQueueShare(uint32_t max_waiting, double share, size_t waiting_of_client);

// Whose request it is, as the scheduler tells clients apart.
uint64_t ClientKey(const GenerationRequest& request);

class RequestQueue {
 public:
  using Clock = WaitingRequest::Clock;

  bool empty() const { return requests_.empty(); }
  size_t size() const { return requests_.size(); }
  uint64_t prompt_tokens() const { return prompt_tokens_; }
  // How many are of one client (ClientKey()).
  size_t CountOf(uint64_t client) const;
  // What the scheduler has to know of each, in order of arrival. Valid until the queue changes.
  std::span<const SequenceNeed> needs() const { return needs_; }

  // In order of arrival.
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    for (const WaitingRequest& request : requests_) visit(request);
  }

  void Push(WaitingRequest request);
  // Takes out the one with this id. REQUIRES: it is in here.
  WaitingRequest Take(uint64_t id);
  // Takes out those whose time is up. Looks at them only if there can be one.
  std::vector<WaitingRequest> TakeExpired(Clock::time_point now);
  // Takes out those for which `wanted(request)` holds.
  template <typename Wanted>
  std::vector<WaitingRequest> TakeIf(const Wanted& wanted) {
    std::vector<WaitingRequest> taken;
    size_t kept = 0;
    for (size_t i = 0; i < requests_.size(); ++i) {
      if (wanted(requests_[i])) {
        prompt_tokens_ -= requests_[i].request.prompt.size();
        taken.push_back(std::move(requests_[i]));
        continue;
      }
      if (kept != i) {
        requests_[kept] = std::move(requests_[i]);
        needs_[kept] = needs_[i];
      }
      ++kept;
    }
    requests_.resize(kept);
    needs_.resize(kept);
    return taken;
  }

 private:
  std::deque<WaitingRequest> requests_;
  std::vector<SequenceNeed> needs_;  // of each in requests_
  uint64_t prompt_tokens_ = 0;       // of requests_
  // No time limit of requests_ is earlier.
  Clock::time_point first_limit_ = Clock::time_point::max();
};

}  // namespace tidegate
