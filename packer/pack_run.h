// What the two halves of a packing run share: the progress of both, and whether one has failed.
// Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "packer/pack_options.h"

namespace tidegate {

class PackRun {
 public:
  // `progress` may be empty; it must outlive this.
  PackRun(uint64_t total_bytes, const PackProgress& progress)
      : total_bytes_(total_bytes), progress_(progress) {}

  // So many more bytes have been handed to the file.
  void Advance(uint64_t bytes) {
    MutexLock lock(mutex_);
    done_bytes_ += bytes;
    if (progress_) progress_(done_bytes_, total_bytes_);
  }

  // One half has failed: from now on MayGoOn() is CANCELLED, so that the other ends soon.
  void Fail() { failed_ = true; }
  absl::Status MayGoOn() const {
    return failed_ ? absl::CancelledError("the other half of the pack failed") : absl::OkStatus();
  }

 private:
  const uint64_t total_bytes_;
  const PackProgress& progress_;
  std::atomic<bool> failed_ = false;
  Mutex mutex_;
  uint64_t done_bytes_ GUARDED_BY(mutex_) = 0;
};

}  // namespace tidegate
