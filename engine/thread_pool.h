// A few threads that run one loop at a time and meet at its end: output ranges of a matrix, heads
// of an attention. Workers spin briefly between loops, because the next one usually follows at
// once. Owned and called by one thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace tidegate {

class ThreadPool {
 public:
  // thread_count includes the caller; 0: one per core.
  explicit ThreadPool(uint32_t thread_count);
  ~ThreadPool();

  uint32_t thread_count() const { return static_cast<uint32_t>(workers_.size()) + 1; }

  // Calls body(begin, end) on disjoint ranges that cover [0, count); ranges begin at multiples of
  // `granule`. Work of fewer than kInlineBytes touched bytes runs on the caller: two threads meet
  // in some microseconds, in which one core adds up that much.
  template <typename Body>
  void For(size_t count, size_t granule, size_t touched_bytes, const Body& body) {
    if (workers_.empty() || touched_bytes < kInlineBytes || count <= granule) {
      body(size_t{0}, count);
      return;
    }
    Start(count, granule, /*shared=*/false, &Invoke<Body>, &body);
  }

  // The same in ranges of `piece`, each taken by the thread that is free first: for loops of
  // milliseconds, in which a thread that has lost its core must not keep the others waiting.
  template <typename Body>
  void ForPieces(size_t count, size_t piece, size_t touched_bytes, const Body& body) {
    if (workers_.empty() || touched_bytes < kInlineBytes || count <= piece) {
      body(size_t{0}, count);
      return;
    }
    Start(count, piece, /*shared=*/true, &Invoke<Body>, &body);
  }

 private:
  static constexpr size_t kInlineBytes = 256 * 1024;  // measured on 2 cores, see docs/benchmarks.md
  using Entry = void (*)(const void* body, size_t begin, size_t end);

  template <typename Body>
  static void Invoke(const void* body, size_t begin, size_t end) {
    (*static_cast<const Body*>(body))(begin, end);
  }

  void Start(size_t count, size_t granule, bool shared, Entry entry, const void* body);
  void Work(uint32_t index);
  void Run(uint32_t index);
  void RunShare(uint32_t index);
  void RunPieces();

  // The current loop; written before epoch_ moves, read after.
  size_t count_ = 0, granule_ = 1;
  bool shared_ = false;  // granules are taken from next_, not in equal shares
  std::atomic<size_t> next_ = 0;
  Entry entry_ = nullptr;
  const void* body_ = nullptr;

  std::atomic<uint32_t> epoch_ = 0;      // futex word: one more per loop
  std::atomic<uint32_t> sleeping_ = 0;   // workers in futex wait
  std::atomic<uint32_t> remaining_ = 0;  // workers still in the loop
  std::atomic<bool> stopping_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace tidegate
