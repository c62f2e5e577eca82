// What passes of the decoder cost. Plain data, cumulative.
#pragma once

#include <cstdint>

#include "engine/stage_times.h"
#include "proto/store/v1/pack_format.h"

namespace tidegate {

struct PassAccounts {
  uint64_t hit_units[kUnitKinds] = {0, 0};  // by UnitKind; selected units found resident
  uint64_t miss_units[kUnitKinds] = {0, 0};
  uint64_t flash_bytes = 0;
  uint64_t flash_reads = 0;
  // Rows that asked for pruning and were computed dense because that read no more. A row counts as
  // the share of its layers and kinds in which it was.
  double dense_instead = 0;
  StageTimes times;  // wall clock of the pass: the same for every sequence in it

  void Add(const PassAccounts& other) {
    for (uint32_t kind = 0; kind < kUnitKinds; ++kind) {
      hit_units[kind] += other.hit_units[kind];
      miss_units[kind] += other.miss_units[kind];
    }
    flash_bytes += other.flash_bytes;
    flash_reads += other.flash_reads;
    dense_instead += other.dense_instead;
    times.Add(other.times);
  }
};

}  // namespace tidegate
