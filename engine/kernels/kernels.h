// Hot loops of the engine: free functions over plain arrays. No allocation, no locks, no Status.
//
// Every kernel exists at least twice. ScalarKernels() is the specification, written for the reader;
// BestKernels() is chosen once for the CPU (Google Highway: AVX2, AVX-512 or NEON; a CPU without
// fused multiply-add gets the scalar table) and must agree with it within the stated bound.
//
// Two arithmetics. f32: as written below. bf16: what multiplies a four-bit code is rounded to
// bfloat16 first (nearest, ties away from zero; denormal numbers may count as 0): x in mat_vec of
// kQ4_0, coefficient * scale in add_columns of kQ4. Half of the instructions, relative error 2^-8
// per term; sums stay f32. Everything else is the same in both.
// Shapes are row-major; counts are elements unless they say bytes. Safe to call from any thread.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "engine/kernels/kv_type.h"
#include "engine/kernels/precision.h"
#include "proto/gguf/ggml_type.h"
#include "proto/store/v1/unit_codec.h"

namespace tidegate {

// Weights of a static matrix [rows, columns], rows stored as in static_rows.h; not owned.
struct MatrixView {
  GgmlType type = GgmlType::kF32;
  const std::byte* data = nullptr;
  size_t rows = 0;
  size_t columns = 0;
  size_t row_bytes = 0;

  const std::byte* Row(size_t r) const { return data + r * row_bytes; }
};

// Keys and values of one head of a sequence, in pages of page_tokens positions each: the key of
// position p at pages[p / page_tokens] + keys + p % page_tokens * KvRowBytes(), its value likewise.
// Not owned.
struct KvView {
  const std::byte* const* pages = nullptr;
  size_t keys = 0, values = 0;  // bytes from the beginning of each page
  size_t page_tokens = 0;
  KvType type = KvType::kF16;
};

struct Kernels {
  std::string_view name;  // "scalar" or Highway's target name, and the arithmetic: "AVX3_bf16"

  // y[r] = sum_c w[r, c] * x[c]  for r in [row_begin, row_end). Error: |y - exact| <=
  // columns * 2^-23 * sum_c |w x|, any summation order (Higham 2002, 3.1). The result for a row
  // does not depend on the range (bitwise).
  void (*mat_vec)(const MatrixView& w, size_t row_begin, size_t row_end, const float* x, float* y);

  // y[j] = fma(coefficient[k], w_k[j], y[j]) for k = 0, 1, ... in this order, j in [begin, end):
  // the DIP kernel. columns[k] points at an encoded column (unit_codec.h) of `elements`;
  // w_k[j] is the decoded float: for kQ8 and kQ4 the term is fma(coefficient * scale, code, y).
  // Every y[j] is one chain of fused multiply-adds in the order of k, so that the result does not
  // depend (bitwise, but for denormal numbers in bf16) on how columns are grouped into calls or on
  // [begin, end), and scalar and fast kernels agree likewise. REQUIRES: begin and end are multiples
  // of 32 or end == elements.
  void (*add_columns)(UnitEncoding encoding, const uint8_t* const* columns,
                      const float* coefficients, size_t count, size_t elements, size_t begin,
                      size_t end, float* y);

  // Many rows with one pass over the weights: a lane is one row's x or y. Whatever the number of
  // lanes and whatever lies beside it, a lane gets, bit for bit, what the kernel of one row in this
  // table gives for it alone; the weights are decoded once for several lanes. The y of different
  // lanes do not overlap; lanes may be 0.
  //
  // mat_vec with y[l] and x[l] for l in [0, lanes).
  void (*mat_vec_lanes)(const MatrixView& w, size_t row_begin, size_t row_end,
                        const float* const* x, float* const* y, size_t lanes);

  // add_columns with y[l] and coefficients[l] [count] for l in [0, lanes): the same columns for
  // every lane.
  void (*add_columns_lanes)(UnitEncoding encoding, const uint8_t* const* columns,
                            const float* const* coefficients, size_t count, size_t elements,
                            size_t begin, size_t end, float* const* y, size_t lanes);

  // out[i] = x[i] * weight[i] / sqrt(mean(x^2) + epsilon); x and out may be the same. n > 0.
  // Relative error below (n / 2 + 4) * 2^-23.
  void (*rms_norm)(const float* x, const float* weight, size_t n, float epsilon, float* out);

  // h[i] = silu(gate[i]) * up[i], silu(z) = z / (1 + exp(-z)). h may be gate or up.
  // Relative error of exp below 4e-7.
  void (*silu_multiply)(const float* gate, const float* up, size_t n, float* h);

  // h[i] = gelu(gate[i]) * up[i], gelu(z) = z (1 + tanh(u)) / 2 = z / (1 + exp(-2u)) with
  // u = sqrt(2 / pi) (z + 0.044715 z^3) (Hendrycks and Gimpel, arXiv 1606.08415: the approximation
  // that the Gemma models are trained with). h may be gate or up. Relative error below
  // 4e-7 + (4 + |u|) * 2^-21.
  void (*gelu_multiply)(const float* gate, const float* up, size_t n, float* h);

  // x[i] = cap * tanh(x[i] / cap). cap > 0. Relative error below 2e-6.
  void (*soft_cap)(size_t n, float cap, float* x);

  // y[i] += x[i].
  void (*add)(const float* x, size_t n, float* y);

  // One query head against the positions [first, first + tokens) of one key/value head (softmax
  // attention).
  //   query [head_size], scaled by `scale` inside; scores capped as by soft_cap, unless cap is 0;
  //   scores [tokens] scratch; out [head_size]. tokens > 0.
  // The result does not depend (bitwise) on how positions are cut into pages. Of kQ8 it is, bit for
  // bit, that of the same rows decoded to kF32.
  void (*attend)(const float* query, const KvView& kv, size_t first, size_t tokens,
                 size_t head_size, float scale, float cap, float* scores, float* out);

  // scores[i] = exp(scores[i] - largest) / sum of these, for i in [0, n). n > 0. Relative error
  // below (n + 8) * 2^-23.
  void (*softmax)(size_t n, float* scores);

  // Rounds floats to halves (nearest even): what goes into a half KV cache.
  void (*to_half)(const float* x, size_t n, uint16_t* out);

  // Rounds floats to blocks of Q8_0: what goes into an 8-bit KV cache. out [n / 32 * 34] bytes. A
  // block's scale is the half nearest to its largest magnitude / 127, its codes the integers
  // nearest (ties even) to x / scale, from -127 to 127. Where a number is not finite, or too large
  // for a half scale, the scale is not finite; then, and where the scale is 0, the codes are 0.
  // All tables agree bitwise, but for the bits of a NaN. REQUIRES: n % 32 == 0.
  void (*to_q8)(const float* x, size_t n, uint8_t* out);
};

const Kernels& ScalarKernels(Precision precision);

// The fastest table of this CPU for the precision. Only mat_vec, add_columns and their forms for
// lanes depend on it.
const Kernels& BestKernels(Precision precision);

// Every table this CPU can run, with its specification: what the tests loop over.
struct SupportedKernelTable {
  const Kernels* kernels;
  const Kernels* scalar;
};
std::span<const SupportedKernelTable> SupportedKernels();

// The nearest bfloat16 as a float; ties go away from zero, NaN stays NaN but for payloads of ones.
inline float RoundToBf16(float value) {
  return std::bit_cast<float>((std::bit_cast<uint32_t>(value) + 0x8000u) & 0xffff0000u);
}

}  // namespace tidegate
