// The cache of one (layer, kind): which block lies in which slot, what is pinned, what is in
// flight. Decisions only: reads and memory are the store's. Owned by the store thread.
//
// A slot is in exactly one of three states:
//   free       holds no block, pins == 0, on the free list
//   occupied   holds a block (possibly in flight); evictable when pins == 0 and not in flight
//   doomed     its block failed to land while leases still pin it; free when the last pin goes
// The residency table (shared with engines) says for every block: 0, or slot + 1 with kInFlight.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "proto/store/v1/shm_layout.h"
#include "weightstore/cache/eviction_policy.h"

namespace tidegate {

class BlockCache {
 public:
  enum class Outcome : uint8_t {
    kResident,  // in `slot`, ready
    kJoined,    // in `slot`, being read for somebody else already
    kRead,      // admitted to `slot`; the caller must read it and call Landed() or Failed()
    kBypass,    // not admitted; stream it through staging
  };
  struct Decision {
    Outcome outcome = Outcome::kBypass;
    uint32_t slot = 0;
  };

  // residency [block_count], all written by this object from now on; not owned.
  BlockCache(std::span<ResidencyEntry> residency, uint32_t slot_count,
             std::unique_ptr<EvictionPolicy> policy);

  // Decides for every wanted block; out [wanted.size()]. Pins the slots of all but kBypass.
  // REQUIRES: blocks are in range and strictly increasing.
  void Acquire(std::span<const WantedBlock> wanted, LeaseMode mode, std::span<Decision> out);

  void Unpin(uint32_t slot);

  // The read into `slot` ended.
  void Landed(uint32_t slot);
  void Failed(uint32_t slot);

  // Takes over a block that lies in `slot` already (warm restart). REQUIRES: both are free.
  void Adopt(uint32_t block, uint32_t slot);

  uint32_t slot_count() const { return static_cast<uint32_t>(slots_.size()); }
  uint32_t used_count() const { return slot_count() - static_cast<uint32_t>(free_.size()); }
  uint32_t pinned_count() const { return pinned_count_; }
  uint64_t evicted_count() const { return evicted_count_; }
  uint64_t inserted_count() const { return inserted_count_; }

 private:
  static constexpr uint32_t kNoBlock = ~0u;
  struct Slot {
    uint32_t block = kNoBlock;
    uint32_t pins = 0;
    bool in_flight = false;
  };

  void Pin(uint32_t slot);
  void Insert(uint32_t block, uint32_t slot);
  void Evict(uint32_t block);
  uint32_t SlotOf(uint32_t block) const;
  // Evicts for missing_ what the policy chooses outside the mask (nothing where every block has a
  // slot) and moves the blocks that come in to the front of missing_. Returns how many.
  size_t MakeRoom(std::span<const WantedBlock> mask);

  std::span<ResidencyEntry> residency_;
  std::unique_ptr<EvictionPolicy> policy_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;  // a stack; lowest slots on top at the start
  uint32_t pinned_count_ = 0;
  uint64_t evicted_count_ = 0;
  uint64_t inserted_count_ = 0;
  std::vector<uint32_t> missing_, candidates_;  // scratch
  std::vector<bool> in_mask_;                   // scratch, all false between calls
};

}  // namespace tidegate
