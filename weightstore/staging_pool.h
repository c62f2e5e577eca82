// Who uses which part of a session's staging. The staging is cut into chunks of equal size; a
// streaming lease takes one, fills it with its next blocks in one go, so that they become one large
// read, and gives it back when the engine has used them up. Leases share the chunks: the one whose
// turn it is may read far ahead, and every other one can still take at least one, so that none
// waits for another to end. Owned by the store thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "proto/store/v1/shm_layout.h"

namespace tidegate {

class StagingPool {
 public:
  // staging_bytes: of the whole session. REQUIRES: room for kLeasesPerSession of the largest
  // blocks.
  StagingPool(uint64_t staging_bytes, uint32_t largest_block_bytes);

  uint64_t chunk_bytes() const { return chunk_bytes_; }
  // Offset of a chunk from the start of the session's staging.
  uint64_t Offset(uint32_t chunk) const { return chunk * chunk_bytes_; }

  // A free chunk for `lease`, or none: wait until one comes back.
  std::optional<uint32_t> Take(uint32_t lease);
  // The lease has no more use for it. It is free again once no read into it is out.
  void GiveBack(uint32_t lease, uint32_t chunk);

  void ReadBegan(uint32_t chunk);
  void ReadEnded(uint32_t chunk);
  // No read is out.
  bool idle() const { return reads_out_ == 0; }

 private:
  struct Chunk {
    uint32_t reads_out = 0;
    bool held = false;
  };

  const uint64_t chunk_bytes_;
  std::vector<Chunk> chunks_;
  std::vector<uint32_t> free_;
  uint32_t held_[kLeasesPerSession] = {};  // chunks of each lease
  uint32_t reads_out_ = 0;
};

}  // namespace tidegate
