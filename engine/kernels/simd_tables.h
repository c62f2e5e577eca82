// Inside engine/kernels only: the tables that kernels_simd.cc compiled and this CPU can run.
// Safe to call from any thread.
#pragma once

#include <cstddef>

#include "engine/kernels/kernels.h"

namespace tidegate {

inline constexpr size_t kMaxSimdTables = 6;

// Fills `tables` with what this CPU can run, slowest first per arithmetic; returns how many.
struct SimdKernels {
  const Kernels* kernels;
  Precision precision;
};
size_t RunnableSimdTables(SimdKernels (&tables)[kMaxSimdTables]);

}  // namespace tidegate
