// Products of encoded weights with many tokens at once: what a prompt is computed with.
//
// Weights are decoded once per call, a panel of outputs at a time that stays in the first caches,
// and every token of the call is multiplied with the panel while it is there. Tokens are packed
// before: in the order in which the products read them, rounded where the arithmetic asks for it.
//
// Two arithmetics. f32: y = fma(x, w, y) of the float x and the exactly decoded w. bf16: the same
// of x and w rounded to bfloat16 (nearest; ties away from zero), where denormal numbers may count
// as 0. Each output is one chain of these sums over the depth in its order, starting from 0 (rows)
// or from y (columns). Hence the result for one token does not depend, bitwise, on the other tokens
// of the call, on the range of outputs, or on how columns are grouped into calls. Error in f32:
// depth * 2^-24 * sum |w x| (Higham 2002, 3.1), in bf16 2^-7 * sum |w x| more.
//
// Tables come as those of kernels.h do: scalar ones as specification, fast ones for this CPU; they
// agree bitwise, but for denormal numbers in bf16. Safe to call from any thread, no allocation in
// the fast ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "engine/kernels/kernels.h"
#include "proto/store/v1/unit_codec.h"

namespace tidegate {

// x [tokens, depth], element (t, k) at data[t * stride + (index == null ? k : index[k])].
struct TokensView {
  const float* data = nullptr;
  size_t stride = 0;
  const uint32_t* index = nullptr;
  size_t depth = 0;
  size_t tokens = 0;
};

// Encoded columns (unit_codec.h) of `elements` outputs each, anywhere in memory.
struct ColumnsView {
  UnitEncoding encoding = UnitEncoding::kF32;
  const uint8_t* const* columns = nullptr;
  size_t count = 0;
  size_t elements = 0;
};

struct MatmulKernels {
  std::string_view name;  // "scalar_f32", or Highway's target and the arithmetic: "AVX3_bf16"

  // Bytes of x when packed. The memory is aligned to kPackAlign and read up to its end only.
  size_t (*packed_bytes)(size_t tokens, size_t depth);

  // Packs tokens [begin, end) of x. REQUIRES: begin % kTokenTile == 0; end as well, or == x.tokens.
  void (*pack)(const TokensView& x, size_t begin, size_t end, void* packed);

  // y[t * y_stride + r] = sum_c w[r, c] x[t, c]  for r in [begin, end), every token; x was packed
  // with depth w.columns.
  void (*multiply_rows)(const MatrixView& w, size_t begin, size_t end, const void* packed,
                        size_t tokens, float* y, size_t y_stride);

  // y[t * y_stride + j] += sum_k w_k[j] x[t, k]  for j in [begin, end), every token; x was packed
  // with depth w.count. REQUIRES: begin and end are multiples of 32 or end == w.elements.
  void (*add_columns)(const ColumnsView& w, size_t begin, size_t end, const void* packed,
                      size_t tokens, float* y, size_t y_stride);
};

inline constexpr size_t kTokenTile = 6;   // tokens that are multiplied together
inline constexpr size_t kPackAlign = 64;  // bytes

// The fastest table of this CPU for the precision.
const MatmulKernels& BestMatmul(Precision precision);

// Every table this CPU can run, with its specification: what the tests loop over.
struct SupportedMatmul {
  const MatmulKernels* kernels;
  const MatmulKernels* scalar;
};
std::span<const SupportedMatmul> SupportedMatmuls();

}  // namespace tidegate
