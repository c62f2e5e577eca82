#include "engine/thread_pool.h"

#include "base/futex.h"

namespace tidegate {
namespace {

// Polls before a worker sleeps: some 20 us, longer than the gaps between the loops of one layer.
constexpr int kSpins = 1500;

}  // namespace

ThreadPool::ThreadPool(uint32_t thread_count) {
  if (thread_count == 0) thread_count = std::max(1u, std::thread::hardware_concurrency());
  for (uint32_t i = 1; i < thread_count; ++i) {
    workers_.emplace_back([this, i] { Work(i); });
  }
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  epoch_.fetch_add(1, std::memory_order_seq_cst);
  FutexWakeAll(&epoch_);
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Start(size_t count, size_t granule, bool shared, Entry entry, const void* body) {
  count_ = count;
  granule_ = granule;
  shared_ = shared;
  next_.store(0, std::memory_order_relaxed);
  entry_ = entry;
  body_ = body;
  remaining_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
  // seq_cst: a worker either sees the new epoch before it sleeps, or we see it in sleeping_.
  epoch_.fetch_add(1, std::memory_order_seq_cst);
  if (sleeping_.load(std::memory_order_seq_cst) > 0) FutexWakeAll(&epoch_);
  Run(0);
  for (int spins = 0; remaining_.load(std::memory_order_acquire) > 0; ++spins) {
    if (spins < kSpins) {
      CpuRelax();
    } else {
      std::this_thread::yield();  // A worker was preempted; give it this core.
    }
  }
}

void ThreadPool::Run(uint32_t index) {
  if (shared_) {
    RunPieces();
  } else {
    RunShare(index);
  }
}

void ThreadPool::RunPieces() {
  while (true) {
    const size_t begin = next_.fetch_add(granule_, std::memory_order_relaxed);
    if (begin >= count_) return;
    entry_(body_, begin, std::min(count_, begin + granule_));
  }
}

void ThreadPool::RunShare(uint32_t index) {
  const size_t parts = workers_.size() + 1;
  const size_t granules = (count_ + granule_ - 1) / granule_;
  const size_t begin = std::min(count_, granules * index / parts * granule_);
  const size_t end = std::min(count_, granules * (index + 1) / parts * granule_);
  if (begin < end) entry_(body_, begin, end);
}

void ThreadPool::Work(uint32_t index) {
  uint32_t seen = 0;
  while (true) {
    uint32_t epoch = epoch_.load(std::memory_order_acquire);
    for (int spins = 0; epoch == seen && spins < kSpins; ++spins) {
      CpuRelax();
      epoch = epoch_.load(std::memory_order_acquire);
    }
    if (epoch == seen) {
      sleeping_.fetch_add(1, std::memory_order_seq_cst);
      if (epoch_.load(std::memory_order_seq_cst) == seen) {
        FutexWait(&epoch_, seen, std::chrono::seconds(1));
      }
      sleeping_.fetch_sub(1, std::memory_order_relaxed);
      continue;
    }
    seen = epoch;
    if (stopping_) return;
    Run(index);
    remaining_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace tidegate
