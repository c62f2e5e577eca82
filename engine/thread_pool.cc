#include "engine/thread_pool.h"

#include "base/futex.h"

namespace tidegate {
namespace {

// Polls before a worker sleeps: some 20 us, longer than the gaps between the loops of one layer.
constexpr int kSpins = 1500;

constexpr uint64_t kClosed = uint64_t{1} << 31;
constexpr uint64_t kMembers = kClosed - 1;

uint64_t Open(uint32_t epoch) { return uint64_t{epoch} << 32; }

}  // namespace

ThreadPool::ThreadPool(uint32_t thread_count) : state_(kClosed) {
  if (thread_count == 0) thread_count = std::max(1u, std::thread::hardware_concurrency());
  for (uint32_t i = 1; i < thread_count; ++i) workers_.emplace_back([this] { Work(); });
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  epoch_.fetch_add(1, std::memory_order_seq_cst);
  FutexWakeAll(&epoch_);
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(size_t count, size_t piece, Entry entry, const void* body) {
  count_ = count;
  piece_ = piece;
  next_.store(0, std::memory_order_relaxed);
  entry_ = entry;
  body_ = body;
  const uint32_t epoch = epoch_.load(std::memory_order_relaxed) + 1;
  state_.store(Open(epoch), std::memory_order_release);
  // seq_cst: a worker either sees the new epoch before it sleeps, or we see it in sleeping_.
  epoch_.store(epoch, std::memory_order_seq_cst);
  if (sleeping_.load(std::memory_order_seq_cst) > 0) FutexWakeAll(&epoch_);
  RunPieces();
  // Nobody joins from here on; who is in still has a piece.
  state_.fetch_or(kClosed, std::memory_order_relaxed);
  for (int spins = 0; (state_.load(std::memory_order_acquire) & kMembers) > 0; ++spins) {
    if (spins < kSpins) {
      CpuRelax();
    } else {
      std::this_thread::yield();  // A worker was preempted; give it this core.
    }
  }
}

void ThreadPool::RunPieces() {
  while (true) {
    const size_t begin = next_.fetch_add(piece_, std::memory_order_relaxed);
    if (begin >= count_) return;
    entry_(body_, begin, std::min(count_, begin + piece_));
  }
}

bool ThreadPool::Join(uint32_t epoch) {
  uint64_t state = state_.load(std::memory_order_relaxed);
  while (state >> 32 == epoch && (state & kClosed) == 0) {
    // Acquire: pairs with the release that opened the loop.
    if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) return true;
  }
  return false;
}

void ThreadPool::Work() {
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
    if (!Join(epoch)) continue;
    RunPieces();
    state_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace tidegate
