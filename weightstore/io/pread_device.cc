#include "weightstore/io/pread_device.h"

#include <pthread.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace tidegate {
namespace {

constexpr uint32_t kStop = std::numeric_limits<uint32_t>::max();

}  // namespace

absl::StatusOr<std::unique_ptr<FlashDevice>> PreadDevice::Create(FlashFile file,
                                                                 const FlashOptions& options,
                                                                 const std::string& reason) {
  UniqueFd event(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!event.valid()) return absl::ErrnoToStatus(errno, "eventfd");
  std::unique_ptr<PreadDevice> device(
      new PreadDevice(std::move(file), std::move(event), options, reason));
  const uint32_t count = std::min(options.pread_threads, options.queue_depth);
  try {
    device->StartThreads(count);
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot start ", count, " read threads: ", error.what(),
                     "; lower pread_threads or raise the process limit (ulimit -u, pids cgroup)"));
  }
  return device;
}

PreadDevice::PreadDevice(FlashFile file, UniqueFd event, const FlashOptions& options,
                         const std::string& reason)
    : file_(std::move(file)),
      event_(std::move(event)),
      pool_(options.queue_depth),
      todo_(options.queue_depth) {
  info_.backend = "pread";
  info_.reason = reason;
  info_.direct = file_.direct;
  info_.why_not_direct = file_.why_not_direct;
  info_.queue_depth = options.queue_depth;
  enqueued_.reserve(options.queue_depth);
  reaped_.reserve(options.queue_depth);
  done_.reserve(options.queue_depth);
}

void PreadDevice::StartThreads(uint32_t count) {
  threads_.reserve(count);
  for (uint32_t i = 0; i < count; ++i) {
    threads_.emplace_back([this] { Work(); });
    pthread_setname_np(threads_.back().native_handle(), absl::StrCat("tg-pread-", i).c_str());
  }
}

PreadDevice::~PreadDevice() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  work_ready_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

void PreadDevice::Enqueue(const FlashRead& read) { enqueued_.push_back(pool_.Take(read)); }

absl::Status PreadDevice::Submit() {
  if (enqueued_.empty()) return absl::OkStatus();
  const auto now = ReadRequest::Clock::now();
  {
    MutexLock lock(mutex_);
    for (const uint32_t request : enqueued_) {
      pool_[request].set_submitted(now);
      todo_[todo_tail_++ % todo_.size()] = request;
    }
  }
  if (enqueued_.size() >= threads_.size()) {
    work_ready_.NotifyAll();
  } else {
    for (size_t i = 0; i < enqueued_.size(); ++i) work_ready_.NotifyOne();
  }
  enqueued_.clear();
  return absl::OkStatus();
}

void PreadDevice::Reap(std::vector<FlashCompletion>& completions) {
  if (done_count_.load(std::memory_order_relaxed) == 0) return;
  {
    MutexLock lock(mutex_);
    std::swap(reaped_, done_);
    done_count_.store(0, std::memory_order_relaxed);
    // Under the lock: a worker that finishes next writes the event again after this.
    eventfd_t ignored = 0;
    CHECK(::eventfd_read(event_.get(), &ignored) == 0);
  }
  const auto now = ReadRequest::Clock::now();
  for (const uint32_t request : reaped_) {
    completions.push_back(pool_[request].Complete(now));
    pool_.GiveBack(request);
  }
  reaped_.clear();
}

void PreadDevice::Work() {
  for (uint32_t request = NextRequest(); request != kStop; request = NextRequest()) {
    ReadFully(file_.fd.get(), file_.direct, pool_[request]);
    Finish(request);
  }
}

uint32_t PreadDevice::NextRequest() {
  MutexLock lock(mutex_);
  while (!stopping_ && todo_head_ == todo_tail_) work_ready_.Wait(mutex_);
  if (stopping_) return kStop;
  return todo_[todo_head_++ % todo_.size()];
}

void PreadDevice::Finish(uint32_t request) {
  MutexLock lock(mutex_);
  done_.push_back(request);
  done_count_.store(static_cast<uint32_t>(done_.size()), std::memory_order_relaxed);
  if (done_.size() == 1) CHECK(::eventfd_write(event_.get(), 1) == 0);
}

}  // namespace tidegate
