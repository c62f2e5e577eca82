// One log line a burst, for events that may come by the thousand, such as the failed reads of a
// broken drive. The first is written at once; those that follow within the period are counted, and
// the next line that is written says how many they were. Metrics count every one. Thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/mutex.h"

namespace tidegate {

class LogBurst {
 public:
  using Clock = std::chrono::steady_clock;

  explicit LogBurst(Clock::duration period = std::chrono::minutes(1)) : period_(period) {}

  template <typename... Parts>
  void Warning(const Parts&... parts) {
    Write(LogLevel::kWarning, parts...);
  }
  template <typename... Parts>
  void Error(const Parts&... parts) {
    Write(LogLevel::kError, parts...);
  }

  // Counts an event at `now`. Set if it is to be written: how many were not since the one before.
  std::optional<uint64_t> Take(Clock::time_point now);

 private:
  template <typename... Parts>
  void Write(LogLevel level, const Parts&... parts) {
    const std::optional<uint64_t> left_out = Take(Clock::now());
    if (!left_out) return;
    Log(level, *left_out == 0 ? absl::StrCat(parts...)
                              : absl::StrCat(parts..., " (and ", *left_out,
                                             " of the kind since the last such line)"));
  }

  const Clock::duration period_;
  Mutex mutex_;
  std::optional<Clock::time_point> written_ ABSL_GUARDED_BY(mutex_);
  uint64_t left_out_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tidegate
