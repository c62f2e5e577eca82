// Inside engine/kernels only: the tables that kernels_simd.cc compiled and this CPU can run.
#pragma once

#include <cstddef>

#include "engine/kernels/kernels.h"

namespace tidegate {

inline constexpr size_t kMaxSimdTables = 4;

// Fills `tables` with the tables that this CPU can run, slowest first; returns how many.
size_t RunnableSimdTables(const Kernels* (&tables)[kMaxSimdTables]);

}  // namespace tidegate
