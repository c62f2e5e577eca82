// Inside engine/kernels only, safe to call from any thread as matmul.h: a panel of decoded weights
// as the products read it, and what matmul.cc chooses from.
//
// A panel holds some steps of the depth for some blocks of 16 outputs:
//   lane (block, step, output) at block * kPanelBlockStride + step * kPanelBlock + output.
// A lane is 32 bits: one float (f32), or two bfloat16 of consecutive depth (bf16): the first in
// the upper half, because vdpbf16ps adds the upper products first. Packed tokens are lanes in the
// same order: tiles of kTokenTile tokens (the last one smaller), within a tile [step, token].
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/kernels/matmul.h"

namespace tidegate {

inline constexpr size_t kPanelBlock = 16;   // outputs
inline constexpr size_t kPanelSteps = 256;  // at most; 16 KiB per block
// One line more than the steps: equal distances of 16 KiB would meet in one set of the cache.
inline constexpr size_t kPanelBlockStride = (kPanelSteps + 1) * kPanelBlock;

// y[t * y_stride + j] += sum over steps of panel . x for `kTokens` tokens and the outputs of one
// strip: 64 for bf16, as many as registers hold for f32. next: where the next call's y begins, to
// be prefetched.
using MultiplyStrip = void (*)(const uint32_t* panel, const uint32_t* x, size_t steps, float* y,
                               size_t y_stride, const float* next);

// Strips of 64 outputs by the number of tokens, 1 .. kTokenTile, from vdpbf16ps. Null where the
// compiler's target or the CPU has no such instruction.
const MultiplyStrip* Bf16Strips();

const MatmulKernels& ScalarMatmul(bool bf16);

inline constexpr size_t kMaxSimdMatmuls = 6;

// Fills `tables` with what this CPU can run, slowest first per arithmetic; returns how many.
struct SimdMatmul {
  const MatmulKernels* kernels;
  bool bf16;
};
size_t RunnableSimdMatmuls(SimdMatmul (&tables)[kMaxSimdMatmuls]);

}  // namespace tidegate
