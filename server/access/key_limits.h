// What one key may use: calls per second or minute, streams at a time, tokens per minute.
//
// Decisions only: the caller says what time it is. Rates are token buckets: a bucket holds what may
// come in a burst and fills steadily. Not thread-safe: its owner (access_control.h) has a lock.
#pragma once

#include <chrono>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tidegate {

// As the key file has them; 0 means any number.
struct LimitValues {
  uint64_t requests_per_second = 0;  // calls of every kind; a second's may come at once
  uint64_t requests_per_minute = 0;  // the same of a minute
  uint64_t concurrent = 0;           // streams that wait or run
  uint64_t tokens_per_minute = 0;    // prompt and answer; a minute's may come at once
  // Part of the places to wait (--max-waiting) that the key's requests may take, (0, 1]; at least
  // one place.
  double queue_share = 1;

  bool operator==(const LimitValues&) const = default;
};

// Reasons of the errors (base/error_reason.h).
inline constexpr char kRequestRateLimit[] = "REQUEST_RATE_LIMIT";
inline constexpr char kConcurrencyLimit[] = "CONCURRENCY_LIMIT";
inline constexpr char kTokenRateLimit[] = "TOKEN_RATE_LIMIT";

// Amounts that fill up at a steady rate.
class TokenBucket {
 public:
  using Clock = std::chrono::steady_clock;

  // Holds `capacity` and fills in `period`; starts full. Capacity 0: everything fits.
  TokenBucket(uint64_t capacity, std::chrono::seconds period, Clock::time_point now);

  // 0 if `amount` is in it, else the time until it will be. Changes nothing. More than the capacity
  // counts as the capacity: it waits for a full bucket.
  std::chrono::nanoseconds WaitFor(double amount, Clock::time_point now) const;
  // Takes out, or gives back where `amount` is negative. What is taken beyond what is there is
  // owed.
  void Take(double amount, Clock::time_point now);
  // The same level as a share, under another capacity.
  void Resize(uint64_t capacity, Clock::time_point now);

  double capacity() const { return capacity_; }

 private:
  double LevelAt(Clock::time_point now) const;

  double capacity_;
  double seconds_;  // of the period
  double level_;
  Clock::time_point at_;  // of level_
};

class KeyLimits {
 public:
  using Clock = TokenBucket::Clock;

  KeyLimits(const LimitValues& values, Clock::time_point now);

  // Other limits from now on; what has been used stays used.
  void Change(const LimitValues& values, Clock::time_point now);

  // A call of any kind. RESOURCE_EXHAUSTED with a reason and when to try again.
  absl::Status Call(Clock::time_point now);
  // A stream that takes up to `tokens`, prompt and answer together. They are reserved, as far as a
  // minute holds so many; the result is what to hand to End(). RESOURCE_EXHAUSTED as above.
  absl::StatusOr<uint64_t> Begin(uint64_t tokens, Clock::time_point now);
  // It used `used` tokens of those that are reserved, or more.
  void End(uint64_t reserved, uint64_t used, Clock::time_point now);

  uint64_t streams() const { return streams_; }

 private:
  LimitValues values_;
  TokenBucket second_, minute_, tokens_;
  uint64_t streams_ = 0;
};

}  // namespace tidegate
