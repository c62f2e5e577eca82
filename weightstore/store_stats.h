// What the store has done and holds, for metrics and WeightStoreService.GetStats. Atomics: written
// by the store's thread, read by anybody at any time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace tidegate {

// Fixed upper bounds, cumulative counts; one writer.
template <size_t kBounds>
class AtomicHistogram {
 public:
  explicit AtomicHistogram(const std::array<double, kBounds>& bounds) : bounds_(bounds) {}

  void Observe(double value) {
    size_t bucket = 0;
    while (bucket < kBounds && value > bounds_[bucket]) ++bucket;
    counts_[bucket].fetch_add(1, std::memory_order_relaxed);
    sum_.store(sum_.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
  }
  const std::array<double, kBounds>& bounds() const { return bounds_; }
  // Observations in (bounds[i-1], bounds[i]]; index kBounds is the rest.
  uint64_t count(size_t bucket) const { return counts_[bucket].load(std::memory_order_relaxed); }
  double sum() const { return sum_.load(std::memory_order_relaxed); }

 private:
  const std::array<double, kBounds> bounds_;
  std::array<std::atomic<uint64_t>, kBounds + 1> counts_ = {};
  std::atomic<double> sum_ = 0;
};

inline constexpr std::array<double, 16> kReadSecondsBounds = {
    10e-6, 20e-6, 50e-6, 100e-6, 150e-6, 200e-6, 300e-6, 500e-6,
    1e-3,  2e-3,  5e-3,  10e-3,  20e-3,  50e-3,  100e-3, 1};
inline constexpr std::array<double, 11> kReadBytesBounds = {
    4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288, 1048576, 2097152, 4194304};

struct StoreStats {
  using Counter = std::atomic<uint64_t>;

  // Index 0: LeaseMode::kSelect, 1: LeaseMode::kStream. Units.
  Counter hit_units[2] = {};
  Counter miss_units[2] = {};
  // Blocks.
  Counter inserted_blocks = 0;
  Counter evicted_blocks = 0;
  Counter bypassed_blocks = 0;  // streamed through staging because the cache did not admit them

  // By purpose. Index 0: cache (into slots), 1: stream (into staging), 2: static weights.
  Counter flash_read_bytes[3] = {};
  Counter flash_reads_ok = 0;
  Counter flash_reads_failed = 0;
  Counter flash_reads_corrupt = 0;  // checksum differed
  Counter corrupt_blocks = 0;       // distinct blocks found damaged
  Counter flash_submissions = 0;
  Counter flash_in_flight = 0;    // gauge
  Counter flash_oldest_read = 0;  // gauge: when it was handed over, ns of steady_clock; 0: none
  Counter flash_stalls = 0;       // bursts of reads that were out for too long
  AtomicHistogram<16> read_seconds{kReadSecondsBounds};
  AtomicHistogram<11> read_bytes{kReadBytesBounds};

  // Gauges, bytes.
  Counter capacity_bytes = 0;        // slots
  Counter used_bytes = 0;            // slots that hold a block
  Counter pinned_bytes = 0;          // slots under a lease
  Counter streamed_model_bytes = 0;  // all blocks of the pack: used / this is the resident share

  Counter leases_granted[2] = {};  // by LeaseMode
  Counter leases_dropped = 0;      // of engines that went away
  Counter engines_attached = 0;    // gauge
  Counter attaches_total = 0;
  Counter attaches_refused = 0;
};

}  // namespace tidegate
