// Sets up one io_uring for reading one file: registered file, registered buffers, and restrictions
// that leave the ring able to do nothing but read that file.
//
// Not here: requests. Threads: any one thread at a time; the ring is not tied to its creator.
// Errors: UNAVAILABLE when the kernel refuses, naming the call and the likely cause (seccomp
// profile of a container, kernel.io_uring_disabled, RLIMIT_MEMLOCK).
#pragma once

#include <liburing.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weightstore/io/fixed_buffers.h"

namespace tidegate {

class UringRing {
 public:
  // `entries`: reads that may wait for submission. `file` must stay open as long as the ring.
  static absl::StatusOr<std::unique_ptr<UringRing>> Create(uint32_t entries, int file,
                                                           std::span<std::byte> buffer);
  ~UringRing();
  UringRing(const UringRing&) = delete;
  UringRing& operator=(const UringRing&) = delete;

  io_uring* get() { return &ring_; }
  int fd() const { return ring_.ring_fd; }
  bool fixed_file() const { return fixed_file_; }
  // What SQEs name: index 0 of the registered files, or the descriptor itself.
  int sqe_file() const { return fixed_file_ ? 0 : file_; }
  const FixedBuffers& buffers() const { return buffers_; }
  // "ring restricted to reads, registered file, 64 MiB of 128 MiB registered (why not all)".
  std::string Describe() const;

 private:
  UringRing() = default;

  absl::Status SetUp(uint32_t entries);
  void RegisterFile(int file);
  void RegisterBuffers(std::span<std::byte> buffer);
  // 0 or the errno of registering buffer[offset, offset + bytes) as chunk `index`.
  int RegisterChunk(uint32_t index, std::span<std::byte> chunk);
  absl::Status Enable();

  io_uring ring_{};
  bool open_ = false;
  bool starts_disabled_ = false;
  bool fixed_file_ = false;
  bool restricted_ = false;
  int file_ = -1;
  uint64_t buffer_bytes_ = 0;
  std::string buffer_limit_;  // why not all of the buffer is registered
  FixedBuffers buffers_;
};

// "io_uring_setup: Operation not permitted (likely ...)".
std::string ExplainUringRefusal(const std::string& call, int error);

}  // namespace tidegate
