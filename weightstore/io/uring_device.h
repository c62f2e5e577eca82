// Reads through io_uring: O_DIRECT, registered file and buffers, one system call per batch.
//
// event_fd() is the ring itself: it polls readable exactly while completions wait, without an
// eventfd write per completion and a read to clear each. Reap() looks at the completion ring in
// shared memory and enters the kernel only to issue the rest of a short read.
//
// Threads: one at a time, not necessarily the creating one. The destructor waits for reads that the
// kernel has, so target memory may go away afterwards. Errors: as FlashDevice.
#pragma once

#include <memory>
#include <vector>

#include "base/log_burst.h"
#include "weightstore/io/flash_device.h"
#include "weightstore/io/flash_file.h"
#include "weightstore/io/read_request.h"
#include "weightstore/io/uring_ring.h"

namespace tidegate {

class UringDevice : public FlashDevice {
 public:
  // UNAVAILABLE when the kernel refuses io_uring, with the likely cause. `file` is borrowed, and
  // taken over only on success, so that the caller can go on with another backend.
  static absl::StatusOr<std::unique_ptr<FlashDevice>> Create(FlashFile& file,
                                                             const FlashOptions& options);
  ~UringDevice() override;

  uint32_t free_count() const override { return pool_.free_count(); }
  uint32_t in_flight() const override { return pool_.used_count(); }
  void Enqueue(const FlashRead& read) override;
  absl::Status Submit() override;
  void Reap(std::vector<FlashCompletion>& completions) override;
  int event_fd() const override { return ring_->fd(); }
  const FlashInfo& info() const override { return info_; }

 private:
  UringDevice(FlashFile file, std::unique_ptr<UringRing> ring, const FlashOptions& options);

  // Writes the submission entry for what remains of a request.
  void Prepare(uint32_t request);
  // Applies one completion: done, or prepared again.
  void Handle(const io_uring_cqe& cqe, ReadRequest::Clock::time_point now,
              std::vector<FlashCompletion>& completions);

  FlashFile file_;
  std::unique_ptr<UringRing> ring_;  // closes before file_
  FlashInfo info_;
  ReadPool pool_;
  std::vector<uint32_t> enqueued_;  // since the last Submit()
  uint32_t in_kernel_ = 0;
  LogBurst submission_log_;
  bool resubmit_ = false;  // entries prepared by Reap() wait for submission
};

}  // namespace tidegate
