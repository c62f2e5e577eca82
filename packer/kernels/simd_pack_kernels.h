// Inside packer/kernels only: the tables that simd_pack_kernels.cc compiled and this CPU can run.
// Any thread.
#pragma once

#include <cstddef>
#include <span>

#include "packer/kernels/pack_kernels.h"

namespace tidegate {

inline constexpr size_t kMaxSimdPackKernels = 4;

// Fills `tables` with what this CPU can run, slowest first; returns how many.
size_t RunnableSimdPackKernels(std::span<const PackKernels*, kMaxSimdPackKernels> tables);

}  // namespace tidegate
