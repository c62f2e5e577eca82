// What benchmarks of kernels read: weights far above the last cache, in pages of 2 MiB as the
// region has where the kernel gives them; TIDEGATE_BENCH_SMALL_PAGES=1 takes pages of 4 KiB. For
// one thread.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "base/check.h"

namespace tidegate {

inline constexpr size_t kWorkingSetBytes = size_t{1} << 30;

// One buffer for every benchmark.
inline uint8_t* WorkingSet() {
  static uint8_t* const memory = [] {
    void* mapped =
        mmap(nullptr, kWorkingSetBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mapped != MAP_FAILED);
    const bool small = std::getenv("TIDEGATE_BENCH_SMALL_PAGES") != nullptr;
    madvise(mapped, kWorkingSetBytes, small ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
    std::memset(mapped, 1, kWorkingSetBytes);
    return static_cast<uint8_t*>(mapped);
  }();
  return memory;
}

inline std::vector<float> RandomFloats(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<float> values(n);
  for (float& value : values) value = uniform(random);
  return values;
}

// Fills the working set with copies of `unit`; returns how many.
inline size_t FillWith(const std::vector<uint8_t>& unit, size_t bytes) {
  const size_t count = bytes / unit.size();
  for (size_t i = 0; i < count; ++i) {
    std::memcpy(WorkingSet() + i * unit.size(), unit.data(), unit.size());
  }
  return count;
}

}  // namespace tidegate
