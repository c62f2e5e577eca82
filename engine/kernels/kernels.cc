#include "engine/kernels/kernels.h"

#include <array>

#include "engine/kernels/simd_tables.h"

namespace tidegate {
namespace {

struct Supported {
  Supported() {
    tables[count++] = &ScalarKernels();
    const Kernels* simd[kMaxSimdTables];
    const size_t simd_count = RunnableSimdTables(simd);
    for (size_t i = 0; i < simd_count; ++i) tables[count++] = simd[i];
  }
  std::array<const Kernels*, 1 + kMaxSimdTables> tables{};
  size_t count = 0;
};

}  // namespace

std::span<const Kernels* const> SupportedKernels() {
  static const Supported supported;  // Asks the CPU once.
  return {supported.tables.data(), supported.count};
}

const Kernels& BestKernels() { return *SupportedKernels().back(); }

}  // namespace tidegate
