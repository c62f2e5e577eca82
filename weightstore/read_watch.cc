#include "weightstore/read_watch.h"

#include "base/log.h"

namespace tidegate {

bool ReadWatch::Due(Clock::time_point now) const {
  if (stats_->flash_in_flight == 0) return stats_->flash_oldest_read != 0;
  return now - last_look_ >= kInterval;
}

void ReadWatch::Look(std::optional<Clock::time_point> oldest, Clock::time_point now) {
  last_look_ = now;
  const std::chrono::nanoseconds handed_over =
      oldest ? oldest->time_since_epoch() : std::chrono::nanoseconds(0);
  stats_->flash_oldest_read = static_cast<uint64_t>(handed_over.count());
  const bool stalled = oldest && now - *oldest >= kStallTime;
  if (stalled == stalled_) return;
  stalled_ = stalled;
  if (stalled) {
    ++stats_->flash_stalls;
    LogWarning("flash: a read has been out for ",
               std::chrono::duration_cast<std::chrono::seconds>(now - *oldest).count(), " s, ",
               stats_->flash_in_flight.load(),
               " are: the drive of the pack hangs or is overloaded");
  } else {
    LogInfo("flash: reads come back in time again");
  }
}

}  // namespace tidegate
