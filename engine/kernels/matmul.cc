#include "engine/kernels/matmul.h"

#include <array>

#include "engine/kernels/matmul_panel.h"

namespace tidegate {
namespace {

struct Supported {
  Supported() {
    for (const bool bf16 : {false, true}) {
      tables[count++] = {&ScalarMatmul(bf16), &ScalarMatmul(bf16)};
    }
    SimdMatmul simd[kMaxSimdMatmuls];
    const size_t simd_count = RunnableSimdMatmuls(simd);
    for (size_t i = 0; i < simd_count; ++i) {
      tables[count++] = {simd[i].kernels, &ScalarMatmul(simd[i].bf16)};
      (simd[i].bf16 ? fast : exact) = simd[i].kernels;
    }
  }
  std::array<SupportedMatmul, 2 + kMaxSimdMatmuls> tables{};
  size_t count = 0;
  const MatmulKernels* exact = &ScalarMatmul(false);
  const MatmulKernels* fast = nullptr;  // bf16; null: no such instruction
};

const Supported& Tables() {
  static const Supported supported;  // Asks the CPU once.
  return supported;
}

}  // namespace

std::span<const SupportedMatmul> SupportedMatmuls() {
  return {Tables().tables.data(), Tables().count};
}

const MatmulKernels& BestMatmul(Precision precision) {
  const Supported& tables = Tables();
  return precision == Precision::kFast && tables.fast != nullptr ? *tables.fast : *tables.exact;
}

}  // namespace tidegate
