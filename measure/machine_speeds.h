// Measures what serving_plan.h computes with: this drive, this memory, these processors, and how
// well they work at the same time. Takes some seconds, in which other work disturbs the result.
// One thread, besides those that it starts.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/kernels/precision.h"
#include "measure/serving_plan.h"
#include "weightstore/io/flash_device.h"

namespace tidegate {

struct SpeedQuestion {
  std::string drive;          // a pack, another file, or a folder, where a file is made and removed
  uint64_t stream_bytes = 0;  // staging of a lease: what a large read can fill
  uint32_t queue_depth = 256;
  uint32_t threads = 0;  // 0: one per core
  Precision precision = Precision::kFast;
  double seconds = 0.3;  // for each of the nine rates
};

struct MeasuredSpeeds {
  MachineSpeeds speeds;
  FlashInfo flash;
  uint32_t threads = 0;
  std::string kernels;
  uint64_t stream_read_bytes = 0;
};

// Errors: those of RangeOf() and FlashMeter; RESOURCE_EXHAUSTED.
absl::StatusOr<MeasuredSpeeds> MeasureSpeeds(const PackIndex& pack, const SpeedQuestion& question);

// Of two tasks with these rates alone and at the same time: the share of the shorter one that is
// hidden, [0, 1]. Pure.
double OverlapOf(double a_alone, double a_beside, double b_alone, double b_beside);

}  // namespace tidegate
