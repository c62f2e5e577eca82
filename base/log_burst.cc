#include "base/log_burst.h"

#include <utility>

namespace tidegate {

std::optional<uint64_t> LogBurst::Take(Clock::time_point now) {
  MutexLock lock(mutex_);
  if (written_ && now - *written_ < period_) {
    ++left_out_;
    return std::nullopt;
  }
  written_ = now;
  return std::exchange(left_out_, 0);
}

}  // namespace tidegate
