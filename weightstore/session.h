// The store's side of one attached engine: the session memory that both sides write, and the
// store's own, trusted state of every lease. Created by the attach thread, then owned by the store
// thread.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mapping.h"
#include "base/unique_fd.h"
#include "proto/store/v1/shm_layout.h"
#include "weightstore/cache/block_cache.h"
#include "weightstore/staging_pool.h"

namespace tidegate {

// A chunk of staging that holds streamed blocks of a lease.
struct StagedChunk {
  uint32_t chunk = 0;
  uint32_t end_index = 0;  // the lease's list before this index has been ordered
};

// What the store knows of a lease. Nothing in here comes from shared memory after it was checked.
struct Lease {
  bool active = false;
  uint64_t serial = 0;      // the engine's number for it
  uint64_t generation = 0;  // ours, growing: tells a late read of an earlier lease apart
  uint32_t layer = 0;
  UnitKind kind = UnitKind::kInput;
  std::vector<WantedBlock> wanted;
  std::vector<BlockCache::Decision> decisions;  // one per wanted block
  std::vector<bool> published;                  // location stored
  uint32_t arrived = 0;                         // how many are

  // Streaming of kBypass blocks through staging, in list order.
  uint32_t bypass_left = 0;        // not yet ordered
  uint32_t next_index = 0;         // where to look for the next bypass block
  std::deque<StagedChunk> staged;  // ordered, not yet consumed

  bool dirty = false;  // published something since the engine was last notified
};

class Session {
 public:
  // Session memory as a sealed memfd: the engine cannot shrink it under the store's feet.
  // staging: of this session's part of the region.
  static absl::StatusOr<std::unique_ptr<Session>> Create(uint32_t index, uint32_t max_blocks,
                                                         StagingPool staging);

  uint32_t index() const { return index_; }
  int memory_fd() const { return memory_.get(); }
  int kick_fd() const { return kick_.get(); }
  uint64_t memory_bytes() const { return mapping_.size(); }
  uint32_t max_blocks() const { return max_blocks_; }

  SessionHeader& header() const { return *mapping_.At<SessionHeader>(0); }
  LeaseHeader& lease_header(uint32_t lease) const {
    return *mapping_.At<LeaseHeader>(LeaseOffset(lease));
  }
  const WantedBlock* wanted(uint32_t lease) const {
    return mapping_.At<WantedBlock>(LeaseOffset(lease) + sizeof(LeaseHeader));
  }
  std::atomic<uint64_t>* locations(uint32_t lease) const {
    return mapping_.At<std::atomic<uint64_t>>(LeaseOffset(lease) + sizeof(LeaseHeader) +
                                              uint64_t{max_blocks_} * sizeof(WantedBlock));
  }
  std::atomic<uint32_t>* arrivals(uint32_t lease) const {
    return reinterpret_cast<std::atomic<uint32_t>*>(locations(lease) + max_blocks_);
  }

  // Takes the next request, copied out of the ring. False if there is none.
  bool TakeRequest(RingEntry& entry);
  // The engine claims more requests than the ring holds: it is broken or hostile.
  bool ring_broken() const { return ring_broken_; }

  // Stores a location of an active lease, once for each block; the engine is told by Notify().
  void Publish(uint32_t lease, uint32_t index, uint64_t location);
  // Records the first error of a lease.
  void SetError(uint32_t lease, const absl::Status& status);
  // Moves `progress` and wakes the engine if it sleeps.
  void Notify(uint32_t lease);

  Lease leases[kLeasesPerSession];
  StagingPool staging;
  bool closing = false;   // not listened to any more: gone, or it broke the rules
  bool detached = false;  // the connection has ended; kept until its staging reads have ended

 private:
  Session(uint32_t index, uint32_t max_blocks, StagingPool pool)
      : staging(std::move(pool)), index_(index), max_blocks_(max_blocks) {}
  uint64_t LeaseOffset(uint32_t lease) const {
    return RoundUpPage(sizeof(SessionHeader)) + lease * SessionLeaseStride(max_blocks_);
  }
  static uint64_t RoundUpPage(uint64_t bytes) {
    return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  }

  const uint32_t index_;
  const uint32_t max_blocks_;
  uint32_t taken_ = 0;
  bool ring_broken_ = false;
  UniqueFd memory_, kick_;
  Mapping mapping_;
};

}  // namespace tidegate
