// Which registered io_uring buffer a range of memory lies in. A large buffer is registered in equal
// chunks (one registration is at most 1 GiB), in order, for as long as RLIMIT_MEMLOCK allows; what
// follows, and what straddles two chunks, is read through the ordinary path.
//
// Threads: thread-compatible; constant once the ring is set up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tidegate {

inline constexpr uint64_t kFixedChunkBytes = uint64_t{64} << 20;
inline constexpr uint64_t kMaxFixedChunkBytes = uint64_t{1} << 30;
inline constexpr uint32_t kMaxFixedChunks = 16384;  // the kernel's limit of one ring

class FixedBuffers {
 public:
  FixedBuffers() = default;
  explicit FixedBuffers(std::span<std::byte> buffer)
      : base_(buffer.data()), chunk_bytes_(ChunkBytes(buffer.size())) {}

  // Small chunks waste least when memory locking is limited; huge buffers need larger ones, because
  // their number is limited as well.
  static constexpr uint64_t ChunkBytes(uint64_t buffer_bytes) {
    uint64_t chunk = kFixedChunkBytes;
    while (chunk < kMaxFixedChunkBytes && buffer_bytes / chunk >= kMaxFixedChunks) chunk *= 2;
    return chunk;
  }

  uint64_t chunk_bytes() const { return chunk_bytes_; }
  uint64_t registered_bytes() const { return registered_bytes_; }
  void set_registered_bytes(uint64_t bytes) { registered_bytes_ = bytes; }

  // Index of the registered chunk that holds all of [data, data + bytes), or -1. REQUIRES: bytes >
  // 0.
  int Find(const void* data, uint64_t bytes) const {
    const auto address = reinterpret_cast<uintptr_t>(data);
    const auto base = reinterpret_cast<uintptr_t>(base_);
    if (address < base) return -1;
    const uint64_t first = address - base;
    if (first >= registered_bytes_ || bytes > registered_bytes_ - first) return -1;
    const uint64_t chunk = first / chunk_bytes_;
    return (first + bytes - 1) / chunk_bytes_ == chunk ? static_cast<int>(chunk) : -1;
  }

 private:
  const std::byte* base_ = nullptr;
  uint64_t chunk_bytes_ = kFixedChunkBytes;
  uint64_t registered_bytes_ = 0;  // a prefix of the buffer; its last chunk may be short
};

}  // namespace tidegate
