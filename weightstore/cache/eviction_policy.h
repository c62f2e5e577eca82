// Which blocks the cache keeps. Pure bookkeeping over block numbers of one (layer, kind): no slots,
// no I/O, no threads. Owned by the cache that it serves.
//
// The cache is "mask first" (public evaluation code of arXiv 2412.01380): every block of the
// current mask is admitted if room can be made, and victims come only from blocks outside the mask.
// A policy ranks victims, and ranks admissions where the mask is larger than the cache.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"

namespace tidegate {

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;

  // False: nothing is ever admitted ("none").
  virtual bool admits() const { return true; }

  // A new mask begins; Touch() calls for its blocks follow.
  virtual void BeginMask() {}
  // The mask selected `units` units of `block`, resident or not.
  virtual void Touch(uint32_t block, uint32_t units) = 0;

  // Reorders so that the first `count` are the victims. REQUIRES: count <= candidates.size().
  virtual void ChooseVictims(std::span<uint32_t> candidates, size_t count) const = 0;
  // Reorders so that the first `count` are those worth admitting. REQUIRES: as above.
  virtual void ChooseAdmissions(std::span<uint32_t> missing, size_t count) const = 0;
};

// "lfu": least selected units first, ties by the smaller block number; admits the most selected.
// "lru": least recently selected first; admits the smaller block numbers.
// "none": no admission, every selected block is read again.
// INVALID_ARGUMENT names the policy and lists these.
absl::StatusOr<std::unique_ptr<EvictionPolicy>> MakeEvictionPolicy(std::string_view name,
                                                                   uint32_t block_count);

}  // namespace tidegate
