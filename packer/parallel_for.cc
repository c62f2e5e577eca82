#include "packer/parallel_for.h"

#include <algorithm>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace tidegate {
namespace {

// What the threads of one call share.
struct Shared {
  explicit Shared(uint64_t n) : count(n) {}

  const uint64_t count;
  std::atomic<uint64_t> next{0};
  Mutex mutex;
  uint64_t failed_index GUARDED_BY(mutex) = UINT64_MAX;
  absl::Status error GUARDED_BY(mutex);

  void Run(const std::function<absl::Status(uint64_t)>& work) {
    for (uint64_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
      absl::Status status = work(i);
      if (status.ok()) continue;
      next.store(count);
      MutexLock lock(mutex);
      if (i >= failed_index) continue;
      failed_index = i;
      error = std::move(status);
    }
  }
};

}  // namespace

uint32_t PackThreads() {
  return std::clamp<uint32_t>(std::thread::hardware_concurrency(), 1, kMaxPackThreads);
}

absl::Status ParallelFor(uint64_t count, uint32_t threads,
                         const std::function<absl::Status(uint64_t)>& work) {
  Shared shared(count);
  std::vector<std::thread> helpers;
  for (uint64_t i = 1; i < std::min<uint64_t>(threads, count); ++i) {
    try {
      helpers.emplace_back([&] { shared.Run(work); });
    } catch (const std::system_error&) {
      break;  // No more threads allowed: those that there are do the work.
    }
  }
  shared.Run(work);
  for (std::thread& helper : helpers) helper.join();
  MutexLock lock(shared.mutex);
  return shared.error;
}

}  // namespace tidegate
