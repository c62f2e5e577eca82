// The product of a bf16 panel: the one loop that needs vdpbf16ps, which the packaged Highway does
// not know. Compiled for it by attribute, chosen at run time (matmul.cc).
#include "engine/kernels/matmul_panel.h"

#if defined(__x86_64__)

#include <immintrin.h>

namespace tidegate {
namespace {

#define TIDEGATE_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

constexpr size_t kVecs = 4;  // of 16 outputs; times 6 tokens: 24 of 32 registers hold sums

template <size_t kTokens>
TIDEGATE_BF16 void Multiply(const uint32_t* panel, const uint32_t* x, size_t steps, float* y,
                            size_t y_stride, const float* next) {
  __m512 sum[kTokens][kVecs];
#pragma GCC unroll 6
  for (size_t t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVecs; ++v) {
      sum[t][v] = _mm512_loadu_ps(y + t * y_stride + v * kPanelBlock);
      _mm_prefetch(reinterpret_cast<const char*>(next + t * y_stride + v * kPanelBlock),
                   _MM_HINT_T0);
    }
  }
  for (size_t step = 0; step < steps; ++step) {
    __m512i w[kVecs];
#pragma GCC unroll 4
    for (size_t v = 0; v < kVecs; ++v) {
      w[v] = _mm512_load_si512(panel + v * kPanelBlockStride + step * kPanelBlock);
    }
#pragma GCC unroll 6
    for (size_t t = 0; t < kTokens; ++t) {
      const __m512i one = _mm512_set1_epi32(static_cast<int>(x[step * kTokens + t]));
#pragma GCC unroll 4
      for (size_t v = 0; v < kVecs; ++v) {
        sum[t][v] = _mm512_dpbf16_ps(sum[t][v], (__m512bh)w[v], (__m512bh)one);
      }
    }
  }
#pragma GCC unroll 6
  for (size_t t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVecs; ++v) {
      _mm512_storeu_ps(y + t * y_stride + v * kPanelBlock, sum[t][v]);
    }
  }
}

constexpr MultiplyStrip kStrips[kTokenTile] = {Multiply<1>, Multiply<2>, Multiply<3>,
                                               Multiply<4>, Multiply<5>, Multiply<6>};

}  // namespace

const MultiplyStrip* Bf16Strips() {
  return __builtin_cpu_supports("avx512bf16") ? kStrips : nullptr;
}

}  // namespace tidegate

#else

namespace tidegate {

const MultiplyStrip* Bf16Strips() { return nullptr; }

}  // namespace tidegate

#endif
