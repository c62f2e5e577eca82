#include "cli/restart_rule.h"

#include <algorithm>

namespace tidegate {

std::optional<std::chrono::milliseconds> RestartRule::AfterEnd(std::chrono::nanoseconds ready) {
  if (ready >= limits_.healthy) ends_ = 0;
  if (++ends_ > limits_.most_ends) return std::nullopt;
  std::chrono::milliseconds delay = limits_.first_delay;
  for (int i = 1; i < ends_ && delay < limits_.longest_delay; ++i) delay *= 2;
  return std::min(delay, limits_.longest_delay);
}

}  // namespace tidegate
