// The fast tables: the *-inl.h headers of this folder, compiled once per
// instruction set by including this file again for each (Google Highway's
// foreach_target), and chosen at run time.
//
// Only instruction sets with fused multiply-add and half conversion take part,
// because add_columns is defined by them: AVX2, AVX-512 and NEON. A CPU without
// them runs the scalar table. SVE would bring vectors without a size known to
// the compiler; such CPUs run the NEON table.
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/kernels/kernels_simd.cc"
#include "hwy/foreach_target.h"
// foreach_target.h comes first: it sets the target for what follows.
#include <string>

#include "hwy/highway.h"

// Highway insists on compiling the baseline target too, which on x86 has no
// vectors we want.
#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128

#include "engine/kernels/columns-inl.h"
#include "engine/kernels/kernels.h"
#include "engine/kernels/mat_vec-inl.h"
#include "engine/kernels/nibbles_bf16-inl.h"
#include "engine/kernels/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

const Kernels& TableF32() {
  static const std::string name = std::string(hwy::TargetName(HWY_TARGET)) + "_f32";
  static const Kernels table = {
      .name = name,
      .mat_vec = MatVec<FloatProducts<Codes::kNibbles>>,
      .add_columns = AddColumns<SpreadF32>,
      .mat_vec_lanes = MatVecLanes<FloatProducts<Codes::kNibbles>>,
      .add_columns_lanes = AddColumnsLanes<SpreadF32>,
      .rms_norm = RmsNorm,
      .silu_multiply = SiluMultiply,
      .gelu_multiply = GeluMultiply,
      .soft_cap = SoftCap,
      .add = Add,
      .attend = Attend,
      .softmax = Softmax,
      .to_half = ToHalf,
      .to_q8 = ToQ8,
  };
  return table;
}

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
const Kernels& TableBf16() {
  static const std::string name = std::string(hwy::TargetName(HWY_TARGET)) + "_bf16";
  static const Kernels table = [] {
    Kernels bf16 = TableF32();
    bf16.name = name;
    bf16.mat_vec = MatVec<Bf16Products>;
    bf16.add_columns = AddColumns<SpreadBf16>;
    bf16.mat_vec_lanes = MatVecLanes<Bf16Products>;
    bf16.add_columns_lanes = AddColumnsLanes<SpreadBf16>;
    return bf16;
  }();
  return table;
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // a fast target

#if HWY_ONCE

#include "engine/kernels/simd_tables.h"

namespace tidegate {

size_t RunnableSimdTables(SimdKernels (&tables)[kMaxSimdTables]) {
  [[maybe_unused]] const int64_t runnable = hwy::SupportedTargets();
  size_t count = 0;
  [[maybe_unused]] const auto add = [&](const Kernels& table, Precision precision) {
    tables[count++] = {&table, precision};
  };
#if HWY_ARCH_X86
  [[maybe_unused]] const bool bf16 = __builtin_cpu_supports("avx512bf16");
#endif
#if HWY_TARGETS & HWY_NEON
  if (runnable & HWY_NEON) add(N_NEON::TableF32(), Precision::kExact);
#endif
#if HWY_TARGETS & HWY_AVX2
  if (runnable & HWY_AVX2) add(N_AVX2::TableF32(), Precision::kExact);
#endif
#if HWY_TARGETS & HWY_AVX3
  if (runnable & HWY_AVX3) add(N_AVX3::TableF32(), Precision::kExact);
  if ((runnable & HWY_AVX3) && bf16) add(N_AVX3::TableBf16(), Precision::kFast);
#endif
#if HWY_TARGETS & HWY_AVX3_DL  // Only in builds tuned for such a CPU.
  if (runnable & HWY_AVX3_DL) add(N_AVX3_DL::TableF32(), Precision::kExact);
  if ((runnable & HWY_AVX3_DL) && bf16) add(N_AVX3_DL::TableBf16(), Precision::kFast);
#endif
  return count;
}

}  // namespace tidegate

#endif  // HWY_ONCE
