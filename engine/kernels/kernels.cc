#include "engine/kernels/kernels.h"

#include <array>

#include "engine/kernels/simd_tables.h"

namespace tidegate {
namespace {

struct Supported {
  Supported() {
    for (const Precision precision : {Precision::kExact, Precision::kFast}) {
      tables[count++] = {&ScalarKernels(precision), &ScalarKernels(precision)};
    }
    SimdKernels simd[kMaxSimdTables];
    const size_t simd_count = RunnableSimdTables(simd);
    for (size_t i = 0; i < simd_count; ++i) {
      tables[count++] = {simd[i].kernels, &ScalarKernels(simd[i].precision)};
      (simd[i].precision == Precision::kFast ? fast : exact) = simd[i].kernels;
    }
  }
  std::array<SupportedKernelTable, 2 + kMaxSimdTables> tables{};
  size_t count = 0;
  const Kernels* exact = &ScalarKernels(Precision::kExact);
  const Kernels* fast = nullptr;  // bf16; null: no such instruction
};

const Supported& Tables() {
  static const Supported supported;  // Asks the CPU once.
  return supported;
}

}  // namespace

std::span<const SupportedKernelTable> SupportedKernels() {
  return {Tables().tables.data(), Tables().count};
}

const Kernels& BestKernels(Precision precision) {
  const Supported& tables = Tables();
  return precision == Precision::kFast && tables.fast != nullptr ? *tables.fast : *tables.exact;
}

}  // namespace tidegate
