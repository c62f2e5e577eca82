// Reads by a pool of threads that call preadv(2): the fall-back where io_uring is refused. O_DIRECT
// when the file system has it. One thread carries one read at a time, so options.pread_threads is
// the depth that the drive sees.
//
// Threads: Enqueue, Submit and Reap belong to the owner; workers meet it at two queues under one
// mutex. The destructor lets reads that have begun finish, drops the rest and joins the workers, so
// target memory may go away afterwards. Errors: as FlashDevice; RESOURCE_EXHAUSTED if no thread
// starts.
#pragma once

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/unique_fd.h"
#include "weightstore/io/flash_device.h"
#include "weightstore/io/flash_file.h"
#include "weightstore/io/read_request.h"

namespace tidegate {

class PreadDevice : public FlashDevice {
 public:
  // `reason`: why this backend was chosen, for info(). REQUIRES: depth and threads are above 0.
  static absl::StatusOr<std::unique_ptr<FlashDevice>> Create(FlashFile file,
                                                             const FlashOptions& options,
                                                             const std::string& reason);
  ~PreadDevice() override;

  uint32_t free_count() const override { return pool_.free_count(); }
  uint32_t in_flight() const override { return pool_.used_count(); }
  void Enqueue(const FlashRead& read) override;
  absl::Status Submit() override;
  void Reap(std::vector<FlashCompletion>& completions) override;
  int event_fd() const override { return event_.get(); }
  const FlashInfo& info() const override { return info_; }

 private:
  PreadDevice(FlashFile file, UniqueFd event, const FlashOptions& options,
              const std::string& reason);

  void StartThreads(uint32_t count);  // throws std::system_error when the kernel refuses one
  void Work();
  uint32_t NextRequest() ABSL_LOCKS_EXCLUDED(mutex_);  // blocks; kStop at the end
  void Finish(uint32_t request) ABSL_LOCKS_EXCLUDED(mutex_);

  // Constant after construction.
  FlashFile file_;
  UniqueFd event_;  // readable exactly while done_ is not empty
  FlashInfo info_;

  // Owner thread. Workers touch a request only between its passage through todo_ and done_.
  ReadPool pool_;
  std::vector<uint32_t> enqueued_;  // not submitted yet
  std::vector<uint32_t> reaped_;    // swapped with done_: keeps the capacity of both

  Mutex mutex_;
  CondVar work_ready_;
  std::vector<uint32_t> todo_ ABSL_GUARDED_BY(mutex_);  // circular, queue_depth long
  uint64_t todo_head_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t todo_tail_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<uint32_t> done_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<uint32_t> done_count_{0};  // done_.size(), so that an idle Reap() takes no lock

  std::vector<std::thread> threads_;
};

}  // namespace tidegate
