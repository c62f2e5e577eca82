// When a modelled device would be done with each read. Pure arithmetic on times that the caller
// passes in: the same submissions give the same completions on every machine.
//
// The device is one queue with three properties, all shared by every read:
//
//   start(i) = max(submit(i), start(i-1) + 1 / reads_per_second)
//   moved(i) = max(start(i), moved(i-1)) + bytes(i) / bytes_per_second
//   done(i)  = moved(i) + latency
//
// Latency overlaps between reads (queue depth hides it); the read rate and the bandwidth do not.
// A stall delays the start of the read before which it comes; a stall for ever puts it off to
// kNever. Costs are rounded to whole nanoseconds. Reads complete in the order of their submission.
//
// Threads: thread-compatible.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "weightstore/io/flash_device.h"

namespace tidegate {

class FlashSchedule {
 public:
  using Nanoseconds = std::chrono::nanoseconds;
  // A century and more: far from overflow.
  static constexpr Nanoseconds kNever = Nanoseconds::max() / 2;

  explicit FlashSchedule(const FlashModel& model) : model_(model) {}

  // Completion time of a read submitted at `now`, on the clock of `now`.
  // REQUIRES: `now` does not go back from one call to the next; ValidateFlashModel() is OK.
  Nanoseconds Submit(Nanoseconds now, uint64_t bytes);

 private:
  FlashModel model_;
  uint64_t reads_ = 0;
  Nanoseconds next_start_{0};
  Nanoseconds last_moved_{0};
};

// INVALID_ARGUMENT names a rate or latency outside what makes sense (and what the arithmetic
// holds).
absl::Status ValidateFlashModel(const FlashModel& model);

// "bandwidth=1e+09 B/s, latency=80000 ns, iops=200000"; unlimited parts say so.
std::string DescribeFlashModel(const FlashModel& model);

}  // namespace tidegate
