// Large transfers from and to a file past the page cache (O_DIRECT) where the file system and the
// drive take them, through the cache where they do not, and for what is not whole pages. For files
// that are read or written once from end to end, which would only push out what others need; not
// for small or repeated reads. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "base/aligned_buffer.h"
#include "base/unique_fd.h"

namespace tidegate {

inline constexpr uint64_t kDirectAlign = 4096;  // of offsets, lengths and memory

class DirectFile {
 public:
  // `fd` is not owned. `flags`: O_RDONLY or O_WRONLY, which it must allow.
  DirectFile(int fd, int flags);

  // `bytes` at `offset`; they begin at the returned address, inside of `buffer`. OUT_OF_RANGE:
  // the file ends early.
  absl::StatusOr<const uint8_t*> Read(uint64_t offset, size_t bytes, AlignedBuffer& buffer) const;

  // Fastest where `data` lies as `offset` does relative to kDirectAlign.
  absl::Status Write(uint64_t offset, const uint8_t* data, size_t bytes) const;

 private:
  int fd_;
  UniqueFd direct_;  // the same file, not valid: without O_DIRECT
};

}  // namespace tidegate
