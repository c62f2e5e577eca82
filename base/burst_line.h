// When to write a log line about something that may happen a thousand times a second: at once for
// the first of a burst, then at most once in ten seconds. One thread, or under a lock.
#pragma once

#include <chrono>
#include <optional>

namespace tidegate {

class BurstLine {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kInterval{10};

  bool Due(Clock::time_point now) {
    if (last_.has_value() && now - *last_ < kInterval) return false;
    last_ = now;
    return true;
  }

 private:
  std::optional<Clock::time_point> last_;
};

}  // namespace tidegate
