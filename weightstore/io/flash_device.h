// Reads of the pack file, asynchronous and batched. One interface, three implementations:
//   io_uring   O_DIRECT, registered file and buffers, one submission per batch
//   pread      a pool of threads, where io_uring is refused (container seccomp profiles do that)
//   modelled   a device of given bandwidth, latency and request rate, for repeatable experiments
//
// Not here: what is read, why, and whether its checksum is right; that is the store's.
// Threads: a device is used by one thread at a time, not necessarily the one that opened it; only
// event_fd() may be polled elsewhere. The destructor waits for reads that cannot be taken back, so
// target memory may go away after it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tidegate {

// Where a part of a read goes. REQUIRES: address and size are multiples of 512.
struct FlashSegment {
  std::byte* data = nullptr;
  uint32_t bytes = 0;
};

inline constexpr size_t kMaxSegments = 64;

// One contiguous range of the file, scattered over segments in order.
struct FlashRead {
  uint64_t offset = 0;                     // bytes from the start of the file; a multiple of 512
  std::span<const FlashSegment> segments;  // [1, kMaxSegments]; copied by Enqueue
  uint64_t tag = 0;                        // comes back in the completion
};

struct FlashCompletion {
  uint64_t tag = 0;
  absl::Status status;  // not OK: UNAVAILABLE (I/O error) or OUT_OF_RANGE (file too short)
  std::chrono::nanoseconds latency{0};  // submission to completion
};

// What is in force, for logs and tidegate_flash_backend_info.
struct FlashInfo {
  std::string backend;         // "io_uring", "pread", "modelled"
  std::string reason;          // why this one: "io_uring_setup: Operation not permitted (seccomp?)"
  bool direct = false;         // O_DIRECT
  std::string why_not_direct;  // where it is not
  bool fixed_file = false;     // registered file
  uint64_t fixed_buffer_bytes = 0;  // registered buffer memory, 0 if none
  uint32_t queue_depth = 0;         // reads that may be out at once
};

// Bandwidth in bytes per second, latency of one read, reads per second. 0 rate means unlimited.
// A drive may hang: after stall_after reads (0: never) it does nothing for `stall`, or never again.
struct FlashModel {
  double bytes_per_second = 0;
  std::chrono::nanoseconds latency{0};
  double reads_per_second = 0;
  std::optional<uint64_t> bad_from = {};  // reads that reach beyond this offset fail with EIO
  uint64_t stall_after = 0;
  std::optional<std::chrono::nanoseconds> stall = {};  // unset: for ever
};

// "bandwidth=1GB/s,latency=80us,iops=200k,bad-from=4GiB"; each part may be left out.
// "stall-after=5k,stall=3s" or "stall-after=5k" besides.
absl::StatusOr<FlashModel> ParseFlashModel(std::string_view text);

struct FlashOptions {
  std::string path;
  uint32_t queue_depth = 256;
  uint32_t pread_threads = 16;
  // "auto" tries io_uring, then pread; "io_uring" or "pread" insists on one.
  std::string backend = "auto";
  std::optional<FlashModel> model;  // set: the modelled device over this file
  // What offsets, sizes and addresses of all reads are multiples of, bytes. A drive with larger
  // sectors is read through the page cache.
  uint32_t alignment = 512;
  // Memory that reads will target, registered as far as RLIMIT_MEMLOCK allows. Page-aligned.
  std::span<std::byte> buffer;
};

class FlashDevice {
 public:
  virtual ~FlashDevice() = default;

  // Reads that may still be enqueued before free_count() reaches 0.
  virtual uint32_t free_count() const = 0;
  // Reads enqueued whose completion Reap() has not returned yet.
  virtual uint32_t in_flight() const = 0;

  // REQUIRES: free_count() > 0. The target memory stays valid until the completion.
  virtual void Enqueue(const FlashRead& read) = 0;

  // Hands everything enqueued to the device: one system call where the backend can. On error what
  // was not accepted stays enqueued, and the next Submit() tries again.
  virtual absl::Status Submit() = 0;

  // Appends what has completed; never blocks. Partial reads are finished inside.
  virtual void Reap(std::vector<FlashCompletion>& completions) = 0;

  // Readable when Reap() may have something. Level-triggered; Reap() clears it.
  // Waits of the thread that submitted may end with EINTR (io_uring runs completions there):
  // repeat.
  virtual int event_fd() const = 0;

  virtual const FlashInfo& info() const = 0;
};

// Chooses and opens a backend. `auto` falls back to pread and says why in info().reason; a file
// system without O_DIRECT (tmpfs) is read through the page cache, and info().direct says so.
absl::StatusOr<std::unique_ptr<FlashDevice>> OpenFlashDevice(const FlashOptions& options);

}  // namespace tidegate
