// Recorded masks against a cache: how many units of each mask would have been in memory.
//
// The served policies are replayed through the store's own BlockCache, one unit per block. Belady's
// oracle looks into the future: after each mask it keeps, of what was resident and what the mask
// read, the units that are needed soonest. It may leave a unit that was just read outside, which
// makes it the best that any cache of this size can do (Belady 1966; with bypassing). Stateless,
// thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/store/v1/mask_trace.h"

namespace tidegate {

// Of one (layer, kind). Units, by token.
struct ReplayCounts {
  std::vector<uint32_t> hits;
  std::vector<uint32_t> misses;
};

// policy: one of the store's ("value", "lfu", "lru", "none") or "belady". Traces hold no scores:
// "value" replays them as if all selected units had the same. The cache begins empty and is kept
// from token to token. slots <= unit count. Errors: INVALID_ARGUMENT names an unknown policy.
absl::StatusOr<ReplayCounts> ReplayMasks(const MaskTrace& trace, uint32_t layer, UnitKind kind,
                                         uint32_t slots, std::string_view policy);

}  // namespace tidegate
