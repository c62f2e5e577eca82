#include "weightstore/staging_pool.h"

#include <algorithm>

#include "base/check.h"
#include "base/units.h"

namespace tidegate {
namespace {

// A chunk is one read. Larger ones gain nothing on the drives that were measured; with fewer than
// some sixteen the engine uses up what one read brought before the next has landed.
constexpr uint64_t kChunkBytesMax = kMiB;
constexpr uint64_t kChunksWanted = 16;

uint64_t ChunkBytes(uint64_t staging_bytes, uint32_t largest_block_bytes) {
  const uint64_t chunk = std::min(staging_bytes / kChunksWanted, kChunkBytesMax);
  return std::max<uint64_t>(chunk / kPageBytes * kPageBytes, largest_block_bytes);
}

}  // namespace

StagingPool::StagingPool(uint64_t staging_bytes, uint32_t largest_block_bytes)
    : chunk_bytes_(ChunkBytes(staging_bytes, largest_block_bytes)),
      chunks_(staging_bytes / chunk_bytes_) {
  CHECK(chunks_.size() >= kLeasesPerSession);
  for (size_t chunk = chunks_.size(); chunk > 0; --chunk) {
    free_.push_back(static_cast<uint32_t>(chunk - 1));
  }
}

std::optional<uint32_t> StagingPool::Take(uint32_t lease) {
  // A lease's first chunk is its right; for more, one must be left for every lease without any.
  const bool first = held_[lease] == 0;
  const auto kept = static_cast<size_t>(std::count(std::begin(held_), std::end(held_), 0u));
  if (free_.size() <= (first ? 0 : kept)) return std::nullopt;
  const uint32_t chunk = free_.back();
  free_.pop_back();
  chunks_[chunk].held = true;
  ++held_[lease];
  return chunk;
}

void StagingPool::GiveBack(uint32_t lease, uint32_t chunk) {
  CHECK(chunks_[chunk].held && held_[lease] > 0);
  chunks_[chunk].held = false;
  --held_[lease];
  if (chunks_[chunk].reads_out == 0) free_.push_back(chunk);
}

void StagingPool::ReadBegan(uint32_t chunk) {
  ++chunks_[chunk].reads_out;
  ++reads_out_;
}

void StagingPool::ReadEnded(uint32_t chunk) {
  CHECK(chunks_[chunk].reads_out > 0);
  --reads_out_;
  if (--chunks_[chunk].reads_out == 0 && !chunks_[chunk].held) free_.push_back(chunk);
}

}  // namespace tidegate
