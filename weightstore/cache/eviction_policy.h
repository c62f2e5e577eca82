// Which blocks the cache keeps. Pure bookkeeping over block numbers of one (layer, kind): no slots,
// no I/O, no threads. Owned by the cache that it serves.
//
// Victims come only from blocks outside the current mask. "lfu" and "lru" are "mask first" (public
// evaluation code of arXiv 2412.01380): every block of the mask is admitted if room can be made.
// "value" admits a block only in the place of one that is worth less.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "proto/store/v1/shm_layout.h"

namespace tidegate {

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;

  // False: nothing is ever admitted ("none").
  virtual bool admits() const { return true; }

  // A new mask begins; Touch() calls for its blocks follow.
  virtual void BeginMask() {}
  // The mask wants this block, resident or not.
  virtual void Touch(const WantedBlock& wanted) = 0;

  // Which of the missing blocks come in, where `room` slots are free and the candidates may leave?
  // Returns a count n and reorders both lists: candidates[0, n) leave, missing[0, room + n) come.
  // REQUIRES: room < missing.size().
  virtual size_t Exchange(std::span<uint32_t> candidates, std::span<uint32_t> missing,
                          size_t room) = 0;
};

// "lfu": least selected units first, ties by the smaller block number; admits the most selected.
// "lru": least recently selected first; admits the smaller block numbers.
// "value": a block is worth the sum over masks of its squared score (WantedBlock::score), halved
//   every 350 masks; the cache keeps the most valuable among the resident blocks and those that
//   this request must read.
//   See docs/decisions/0006-masks-beyond-the-paper.md.
// "none": no admission, every selected block is read again.
// INVALID_ARGUMENT names the policy and lists these.
absl::StatusOr<std::unique_ptr<EvictionPolicy>> MakeEvictionPolicy(std::string_view name,
                                                                   uint32_t block_count);

}  // namespace tidegate
