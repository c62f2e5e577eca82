// Notices reads that have been out for too long: keeps the age of the oldest one for the metrics,
// and says in the log once a burst that the drive hangs. It changes nothing: whoever waits for a
// read waits on, or gives up. Owned by the store thread.
#pragma once

#include <chrono>
#include <optional>

#include "weightstore/store_stats.h"

namespace tidegate {

class ReadWatch {
 public:
  static constexpr std::chrono::seconds kStallTime{5};
  // How often to look while reads are out.
  static constexpr std::chrono::milliseconds kInterval{200};

  using Clock = std::chrono::steady_clock;

  explicit ReadWatch(StoreStats* stats) : stats_(stats) {}

  // Whether there is something to look at by now: reads are out, or were at the last look.
  bool Due(Clock::time_point now) const;
  // oldest: when the oldest read that is out was handed to the device; unset: none is out.
  void Look(std::optional<Clock::time_point> oldest, Clock::time_point now);

 private:
  StoreStats* const stats_;
  Clock::time_point last_look_;
  bool stalled_ = false;
};

}  // namespace tidegate
