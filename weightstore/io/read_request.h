// The life of one FlashRead inside a device: its remaining range, what a system call's result means
// for it, and a pool that holds all of them, so that nothing is allocated once a device runs.
//
// Not here: system calls, except ReadFully for the backends that read synchronously.
// Threads: a request belongs to whoever works on it; a pool belongs to the device's owner thread.
#pragma once

#include <sys/uio.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "weightstore/io/flash_device.h"

namespace tidegate {

class ReadRequest {
 public:
  using Clock = std::chrono::steady_clock;

  // Takes over `read`. Segments that touch in memory become one, which lets more reads use a
  // registered buffer. REQUIRES: what FlashRead and FlashSegment require.
  void Reset(const FlashRead& read);

  // What the next system call reads: iovecs [iov(), iov() + iov_count()) at offset().
  const iovec* iov() const { return &iovecs_[first_]; }
  uint32_t iov_count() const { return count_ - first_; }
  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return remaining_; }

  // Applies the result of a read at offset(): bytes read, or -errno. True when the request is
  // finished (see status()); false when it must be issued again: a short read, EINTR, EAGAIN.
  // `direct`: the file is open with O_DIRECT, where an unaligned length means the end of the file.
  bool Apply(int64_t result, bool direct);

  const absl::Status& status() const { return status_; }
  FlashCompletion Complete(Clock::time_point now);

  void set_submitted(Clock::time_point now) { submitted_ = now; }
  Clock::time_point submitted() const { return submitted_; }

 private:
  void Advance(uint64_t bytes);

  uint64_t tag_ = 0;
  uint64_t offset_ = 0;
  uint64_t remaining_ = 0;
  uint32_t first_ = 0;  // iovecs before this one are full
  uint32_t count_ = 0;
  uint32_t retries_ = 0;
  Clock::time_point submitted_;
  absl::Status status_;
  std::array<iovec, kMaxSegments> iovecs_;
};

// preadv(2) on this thread until the request is finished.
void ReadFully(int fd, bool direct, ReadRequest& request);

// Fixed number of requests, addressed by index.
class ReadPool {
 public:
  explicit ReadPool(uint32_t size);

  uint32_t free_count() const { return static_cast<uint32_t>(free_.size()); }
  uint32_t used_count() const { return static_cast<uint32_t>(requests_.size()) - free_count(); }
  ReadRequest& operator[](uint32_t index) { return requests_[index]; }

  // REQUIRES: free_count() > 0.
  uint32_t Take(const FlashRead& read);
  void GiveBack(uint32_t index) { free_.push_back(index); }

 private:
  std::vector<ReadRequest> requests_;
  std::vector<uint32_t> free_;
};

}  // namespace tidegate
