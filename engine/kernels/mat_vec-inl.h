// mat_vec, compiled once per instruction set (kernels_simd.cc).
//
// Every (row, token) pair has one accumulator of kLanes partial sums, to which each group of 32
// products is added; the lanes are summed at the end. Tiles of rows and tokens only decide which
// pairs advance together, never the order within a pair: hence the results depend on neither.
//
// clang-format off
#if defined(TIDEGATE_KERNELS_MAT_VEC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TIDEGATE_KERNELS_MAT_VEC_INL_H_
#undef TIDEGATE_KERNELS_MAT_VEC_INL_H_
#else
#define TIDEGATE_KERNELS_MAT_VEC_INL_H_
#endif
// clang-format on

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "engine/kernels/decode-inl.h"
#include "engine/kernels/kernels.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

// Tokens that pass over the matrix together: their activations (32 x 4096 floats = 512 KiB) stay
// in the second cache.
constexpr size_t kTokenBlock = 32;

// Bytes of 32 weights in a GGUF row, with the half scale in front of quantised ones.
constexpr bool HasScale(Codes codes) { return codes == Codes::kInt8 || codes == Codes::kNibbles; }
constexpr size_t BlockBytes(Codes codes) { return GroupBytes(codes) + (HasScale(codes) ? 2 : 0); }

// sum[t] += w . x[t] over 32 columns.
template <Codes kCodes, size_t kTokens>
HWY_INLINE void AddDot(const uint8_t* block, const float* HWY_RESTRICT x, size_t x_stride,
                       FloatVec (&sum)[kTokens]) {
  const FloatTag df;
  FloatVec w[kVecs];
  DecodeGroup<kCodes>(block + (HasScale(kCodes) ? 2 : 0), w);
  HWY_UNROLL(4)
  for (size_t t = 0; t < kTokens; ++t) {
    auto products = hn::Mul(w[0], hn::LoadU(df, x + t * x_stride));
    HWY_UNROLL(8)
    for (size_t v = 1; v < kVecs; ++v) {
      products = hn::MulAdd(w[v], hn::LoadU(df, x + t * x_stride + v * kLanes), products);
    }
    if constexpr (HasScale(kCodes)) {
      sum[t] = hn::MulAdd(hn::Set(df, HalfAt(block)), products, sum[t]);
    } else {
      sum[t] = hn::Add(sum[t], products);
    }
  }
}

// The last columns of a row of floats, zero-padded to 32: sum[r][t] += w[r] . x[t].
template <Codes kCodes, size_t kRows, size_t kTokens>
HWY_NOINLINE void AddDotTail(const uint8_t* const (&rows)[kRows], size_t columns, const float* x,
                             size_t x_stride, FloatVec (&sum)[kRows][kTokens]) {
  const size_t begin = columns / kGroup * kGroup;
  float padded_x[kTokens][kGroup] = {};
  for (size_t t = 0; t < kTokens; ++t) {
    std::memcpy(padded_x[t], x + t * x_stride + begin, (columns - begin) * sizeof(float));
  }
  for (size_t r = 0; r < kRows; ++r) {
    uint8_t padded_w[GroupBytes(kCodes)] = {};
    constexpr size_t kElementBytes = GroupBytes(kCodes) / kGroup;
    std::memcpy(padded_w, rows[r] + begin * kElementBytes, (columns - begin) * kElementBytes);
    AddDot<kCodes, kTokens>(padded_w, padded_x[0], kGroup, sum[r]);
  }
}

// y[t * y_stride + r] for kRows rows and kTokens tokens.
template <Codes kCodes, size_t kRows, size_t kTokens>
HWY_NOINLINE void DotTile(const uint8_t* first_row, size_t row_bytes, size_t columns,
                          const float* HWY_RESTRICT x, size_t x_stride, float* HWY_RESTRICT y,
                          size_t y_stride) {
  const FloatTag df;
  const uint8_t* rows[kRows];
  FloatVec sum[kRows][kTokens];
  HWY_UNROLL(4)
  for (size_t r = 0; r < kRows; ++r) {
    rows[r] = first_row + r * row_bytes;
    HWY_UNROLL(4)
    for (size_t t = 0; t < kTokens; ++t) sum[r][t] = hn::Zero(df);
  }
  for (size_t g = 0; g < columns / kGroup; ++g) {
    const size_t at = g * BlockBytes(kCodes);
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) {
      hwy::Prefetch(rows[r] + kRows * row_bytes + at);  // The same place in the next rows.
      AddDot<kCodes, kTokens>(rows[r] + at, x + g * kGroup, x_stride, sum[r]);
    }
  }
  if constexpr (!HasScale(kCodes)) {
    if (columns % kGroup != 0) {
      AddDotTail<kCodes, kRows, kTokens>(rows, columns, x, x_stride, sum);
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t t = 0; t < kTokens; ++t) {
      y[t * y_stride + r] = hn::GetLane(hn::SumOfLanes(df, sum[r][t]));
    }
  }
}

// All of [row_begin, row_end) for kTokens tokens, kRows rows at a time.
template <Codes kCodes, size_t kRows, size_t kTokens>
HWY_INLINE void DotRows(const MatrixView& w, size_t row_begin, size_t row_end, const float* x,
                        size_t x_stride, float* y, size_t y_stride) {
  const auto row = [&](size_t r) { return reinterpret_cast<const uint8_t*>(w.Row(r)); };
  size_t r = row_begin;
  for (; r + kRows <= row_end; r += kRows) {
    DotTile<kCodes, kRows, kTokens>(row(r), w.row_bytes, w.columns, x, x_stride, y + r, y_stride);
  }
  for (; r < row_end; ++r) {
    DotTile<kCodes, 1, kTokens>(row(r), w.row_bytes, w.columns, x, x_stride, y + r, y_stride);
  }
}

template <Codes kCodes>
void MatVecOf(const MatrixView& w, size_t row_begin, size_t row_end, const float* x,
              size_t x_stride, size_t tokens, float* y, size_t y_stride) {
  constexpr size_t kTokens = 4;
  constexpr size_t kRows = 2;  // 8 accumulators
  for (size_t block = 0; block < tokens; block += kTokenBlock) {
    const size_t end = std::min(tokens, block + kTokenBlock);
    const size_t tiled = block + (end - block) / kTokens * kTokens;
    // Rows outside, tokens inside: a pair of rows stays in the first cache for all tokens.
    for (size_t r = row_begin; tiled > block && r < row_end; r += kRows) {
      for (size_t t = block; t < tiled; t += kTokens) {
        DotRows<kCodes, kRows, kTokens>(w, r, std::min(row_end, r + kRows), x + t * x_stride,
                                        x_stride, y + t * y_stride, y_stride);
      }
    }
    for (size_t t = tiled; t < end; ++t) {
      DotRows<kCodes, 4, 1>(w, row_begin, row_end, x + t * x_stride, 0, y + t * y_stride, 0);
    }
  }
}

inline void MatVec(const MatrixView& w, size_t row_begin, size_t row_end, const float* x,
                   size_t x_stride, size_t tokens, float* y, size_t y_stride) {
  const auto run = [&](auto mat_vec) {
    mat_vec(w, row_begin, row_end, x, x_stride, tokens, y, y_stride);
  };
  switch (w.type) {
    case GgmlType::kF32:
      return run(MatVecOf<Codes::kF32>);
    case GgmlType::kF16:
      return run(MatVecOf<Codes::kF16>);
    case GgmlType::kBF16:
      return run(MatVecOf<Codes::kBF16>);
    case GgmlType::kQ8_0:
      return run(MatVecOf<Codes::kInt8>);
    case GgmlType::kQ4_0:
      return run(MatVecOf<Codes::kNibbles>);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_MAT_VEC_INL_H_
