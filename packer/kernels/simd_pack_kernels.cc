// The fast tables: the *-inl.h headers of this folder, compiled once per instruction set by
// including this file again for each (Google Highway's foreach_target), and chosen at run time, as
// engine/kernels/kernels_simd.cc does. Only instruction sets that convert half floats take part.
//
// Compiled without contraction of products and sums (CMakeLists.txt): fused, they would give other
// bits than the scalar table.
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "packer/kernels/simd_pack_kernels.cc"
#include "hwy/foreach_target.h"
// foreach_target.h comes first: it sets the target for what follows.
#include "hwy/highway.h"
#include "packer/kernels/simd_pack_kernels.h"

// Highway insists on compiling the baseline target too, which on x86 has no half floats.
#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128

#include "packer/kernels/decode-inl.h"
#include "packer/kernels/encode-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

const PackKernels& PackTable() {
  static const PackKernels table = {
      .name = hwy::TargetName(HWY_TARGET), .decode = DecodeRow, .encode = EncodeSlab};
  return table;
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // a fast target

#if HWY_ONCE

namespace tidegate {

size_t RunnableSimdPackKernels(std::span<const PackKernels*, kMaxSimdPackKernels> tables) {
  [[maybe_unused]] const int64_t runnable = hwy::SupportedTargets();
  size_t count = 0;
#if HWY_TARGETS & HWY_NEON
  if (runnable & HWY_NEON) tables[count++] = &N_NEON::PackTable();
#endif
#if HWY_TARGETS & HWY_AVX2
  if (runnable & HWY_AVX2) tables[count++] = &N_AVX2::PackTable();
#endif
#if HWY_TARGETS & HWY_AVX3
  if (runnable & HWY_AVX3) tables[count++] = &N_AVX3::PackTable();
#endif
#if HWY_TARGETS & HWY_AVX3_DL  // Only in builds tuned for such a CPU.
  if (runnable & HWY_AVX3_DL) tables[count++] = &N_AVX3_DL::PackTable();
#endif
  return count;
}

}  // namespace tidegate

#endif  // HWY_ONCE
