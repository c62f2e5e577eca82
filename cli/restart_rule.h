// When a program that has ended is started again: at once-ish, then later and later, and at some
// point not any more. Pure but for its count; not thread-safe.
#pragma once

#include <chrono>
#include <optional>

namespace tidegate {

struct RestartLimits {
  std::chrono::milliseconds first_delay{500};       // doubles with every end ...
  std::chrono::milliseconds longest_delay{30'000};  // ... up to this,
  std::chrono::milliseconds healthy{60'000};        // and is forgotten after so long a health
  int most_ends = 10;                               // ends in a row after which it is started again
};

class RestartRule {
 public:
  explicit RestartRule(RestartLimits limits = {}) : limits_(limits) {}

  // The program has ended, `ready` after it became ready (0: it did not). Gives the time to wait
  // before the next start; nullopt: it is given up.
  std::optional<std::chrono::milliseconds> AfterEnd(std::chrono::nanoseconds ready);

 private:
  RestartLimits limits_;
  int ends_ = 0;  // in a row
};

}  // namespace tidegate
