// A few threads that run one loop at a time: output ranges of a matrix, heads of an attention. A
// loop is cut into pieces, and whoever is free takes the next one. Workers join a loop when the
// system gives them a core, and the caller waits only for those that joined: cores are shared with
// the weight store, and a thread that has lost its own must not keep the others waiting. Workers
// spin briefly between loops, because the next one usually follows at once. Owned and called by one
// thread.
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
  // in some microseconds, in which one core adds up that much. One range for each thread: shorter
  // ones read memory worse (docs/benchmarks.md).
  template <typename Body>
  void For(size_t count, size_t granule, size_t touched_bytes, const Body& body) {
    const size_t granules = (count + granule - 1) / granule;
    ForPieces(count, (granules + workers_.size()) / thread_count() * granule, touched_bytes, body);
  }

  // The same in ranges of `piece`.
  template <typename Body>
  void ForPieces(size_t count, size_t piece, size_t touched_bytes, const Body& body) {
    if (workers_.empty() || touched_bytes < kInlineBytes || count <= piece) {
      body(size_t{0}, count);
      return;
    }
    Run(count, piece, &Invoke<Body>, &body);
  }

 private:
  static constexpr size_t kInlineBytes = 256 * 1024;  // measured on 2 cores, see docs/benchmarks.md
  using Entry = void (*)(const void* body, size_t begin, size_t end);

  template <typename Body>
  static void Invoke(const void* body, size_t begin, size_t end) {
    (*static_cast<const Body*>(body))(begin, end);
  }

  void Run(size_t count, size_t piece, Entry entry, const void* body);
  void Work();
  void RunPieces();
  bool Join(uint32_t epoch);

  // The current loop; written while no worker can join, read by those that have.
  size_t count_ = 0, piece_ = 1;
  std::atomic<size_t> next_ = 0;
  Entry entry_ = nullptr;
  const void* body_ = nullptr;

  // Who may take pieces: epoch of the loop << 32 | kClosed | number of workers in it.
  std::atomic<uint64_t> state_;
  std::atomic<uint32_t> epoch_ = 0;     // futex word: one more per loop
  std::atomic<uint32_t> sleeping_ = 0;  // workers in futex wait
  std::atomic<bool> stopping_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace tidegate
