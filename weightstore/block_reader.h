// Reads whole blocks of a pack into memory: merges neighbours into one device read, keeps the
// device's queue full, verifies checksums, reports every block. Knows nothing of caches or leases.
// Owned by the store thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <unordered_set>
#include <vector>

#include "absl/status/status.h"
#include "base/log_burst.h"
#include "proto/store/v1/pack_format.h"
#include "weightstore/io/flash_device.h"
#include "weightstore/store_stats.h"

namespace tidegate {

enum class ReadPurpose : uint8_t { kCache = 0, kStream = 1 };

// Where a block goes and whom it is for. The last five are the caller's and come back unchanged.
struct BlockOrder {
  uint32_t layer = 0;
  UnitKind kind = UnitKind::kInput;
  uint32_t block = 0;
  ReadPurpose purpose = ReadPurpose::kCache;
  std::byte* target = nullptr;                 // page-aligned, block_bytes
  uint32_t place = 0;                          // kCache: slot; kStream: chunk of the staging
  uint32_t session = 0, lease = 0, index = 0;  // kStream
  uint64_t generation = 0;
};

class BlockReader {
 public:
  // Called once per ordered block. DATA_LOSS: the checksum differed twice, the pack ends before the
  // block, or the device cannot read it; names layer, kind and block, and what to do.
  using Done = std::function<void(const BlockOrder& order, const absl::Status& status)>;

  // device, pack and stats are not owned and must outlive the reader.
  BlockReader(FlashDevice* device, const PackIndex* pack, bool verify, StoreStats* stats);

  // Queues a block. Returns true if it begins a new device read, false if it joined the one before,
  // which ends where this block begins on flash.
  bool Order(const BlockOrder& order);

  // Hands queued reads to the device as far as it takes them.
  absl::Status Submit();

  // Handles completions, a bounded number of bytes at a time, so that the caller can order the next
  // reads between verifying those that landed; returns how many blocks were reported.
  size_t Poll(const Done& done);

  // When the oldest of the reads that are out was handed to the device. Looks at all of them.
  std::optional<std::chrono::steady_clock::time_point> OldestRead() const;

  bool idle() const { return queued_.empty() && landed_.empty() && active_count_ == 0; }

 private:
  struct Job {
    uint64_t offset = 0;  // in the file
    uint64_t bytes = 0;
    std::vector<FlashSegment> segments;
    std::vector<BlockOrder> orders;
    bool alone = false;  // takes no neighbours
    bool again = false;  // the block has been read before, and its checksum differed
    std::chrono::steady_clock::time_point submitted;
  };

  struct LandedJob {
    std::unique_ptr<Job> job;
    absl::Status status;
  };

  std::unique_ptr<Job> NewJob(const BlockOrder& order);
  bool Extend(Job& job, const BlockOrder& order, uint64_t offset, uint32_t bytes) const;
  void Finish(std::unique_ptr<Job> job, const absl::Status& status, const Done& done);
  void FinishRead(const BlockOrder& order, bool again, const Done& done);
  void FinishFailed(const Job& job, const absl::Status& status, const Done& done);
  void ReadAlone(const BlockOrder& order, bool again);
  uint32_t BlockBytes(const BlockOrder& order) const;
  uint64_t FileOffset(const BlockOrder& order) const;

  FlashDevice* const device_;
  const PackIndex* const pack_;
  const bool verify_;
  StoreStats* const stats_;
  std::deque<std::unique_ptr<Job>> queued_;
  std::vector<std::unique_ptr<Job>> active_;  // by device tag
  std::deque<LandedJob> landed_;              // not verified yet
  std::vector<uint64_t> free_tags_;
  std::vector<std::unique_ptr<Job>> spare_;  // keeps the vectors' capacity
  size_t active_count_ = 0;
  bool resubmit_ = false;  // the device has not accepted everything yet
  std::vector<FlashCompletion> completions_;
  std::unordered_set<uint64_t> damaged_;  // block indices already counted
  LogBurst damaged_log_, failed_log_;
};

}  // namespace tidegate
