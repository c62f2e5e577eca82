// The fast tables of matmul.h: the matmul*-inl.h headers, compiled once per instruction set as
// kernels_simd.cc does for its own. The bf16 tables decode with AVX-512 and multiply with
// matmul_bf16.cc.
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/matmul_simd.cc"
#include "hwy/foreach_target.h"
// foreach_target.h comes first: it sets the target for what follows.
#include <string>

#include "hwy/highway.h"

#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128

#include "engine/kernels/matmul-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

const MatmulKernels& MatmulF32() { return MatmulTable<F32>(); }
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
const MatmulKernels& MatmulBf16() { return MatmulTable<Bf16>(); }
#endif

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // a fast target

#if HWY_ONCE

namespace tidegate {

size_t RunnableSimdMatmuls(SimdMatmul (&tables)[kMaxSimdMatmuls]) {
  [[maybe_unused]] const int64_t runnable = hwy::SupportedTargets();
  [[maybe_unused]] const bool bf16 = Bf16Strips() != nullptr;
  size_t count = 0;
#if HWY_TARGETS & HWY_NEON
  if (runnable & HWY_NEON) tables[count++] = {&N_NEON::MatmulF32(), false};
#endif
#if HWY_TARGETS & HWY_AVX2
  if (runnable & HWY_AVX2) tables[count++] = {&N_AVX2::MatmulF32(), false};
#endif
#if HWY_TARGETS & HWY_AVX3
  if (runnable & HWY_AVX3) tables[count++] = {&N_AVX3::MatmulF32(), false};
  if ((runnable & HWY_AVX3) && bf16) tables[count++] = {&N_AVX3::MatmulBf16(), true};
#endif
#if HWY_TARGETS & HWY_AVX3_DL  // Only in builds tuned for such a CPU.
  if (runnable & HWY_AVX3_DL) tables[count++] = {&N_AVX3_DL::MatmulF32(), false};
  if ((runnable & HWY_AVX3_DL) && bf16) tables[count++] = {&N_AVX3_DL::MatmulBf16(), true};
#endif
  return count;
}

}  // namespace tidegate

#endif  // HWY_ONCE
