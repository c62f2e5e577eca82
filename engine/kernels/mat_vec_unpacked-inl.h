// mat_vec and mat_vec_lanes of the types that are unpacked block by block, compiled once per
// instruction set (kernels_simd.cc).
//
// clang-format off
#if defined(TIDEGATE_KERNELS_MAT_VEC_UNPACKED_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TIDEGATE_KERNELS_MAT_VEC_UNPACKED_INL_H_
#undef TIDEGATE_KERNELS_MAT_VEC_UNPACKED_INL_H_
#else
#define TIDEGATE_KERNELS_MAT_VEC_UNPACKED_INL_H_
#endif
// clang-format on

#include <algorithm>
#include <cstddef>

#include "engine/kernels/batch-inl.h"
#include "engine/kernels/kernels.h"
#include "engine/kernels/unpacked-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

// A strip of a row is decoded into the first cache and multiplied from there, by all lanes of a
// pass. Their partial sums, kUnpackedSums vectors each, wait in memory meanwhile.
constexpr size_t kUnpackedSums = std::min<size_t>(kVecs, 4);
constexpr size_t kUnpackedColumns = 1024;  // of a strip
constexpr size_t kUnpackedRows = 8;
constexpr size_t kUnpackedLanes = 16;
constexpr size_t kUnpackedFloats = kUnpackedSums * kLanes;

// sums[l] += decoded . x[l] from column `begin` on. Vector v goes to sum v % kUnpackedSums.
template <size_t kAbreast>
HWY_NOINLINE void DotDecoded(const float* HWY_RESTRICT decoded, size_t count, const float* const* x,
                             size_t begin, float* HWY_RESTRICT sums) {
  const FloatTag df;
  for (size_t v = 0; v < kUnpackedSums; v += 2) {
    FloatVec sum[kAbreast][2];
    HWY_UNROLL(8)
    for (size_t l = 0; l < kAbreast; ++l) {
      sum[l][0] = hn::Load(df, sums + l * kUnpackedFloats + v * kLanes);
      sum[l][1] = hn::Load(df, sums + l * kUnpackedFloats + (v + 1) * kLanes);
    }
    for (size_t at = v * kLanes; at < count; at += kUnpackedFloats) {
      const auto w0 = hn::Load(df, decoded + at);
      const auto w1 = hn::Load(df, decoded + at + kLanes);
      HWY_UNROLL(8)
      for (size_t l = 0; l < kAbreast; ++l) {
        const float* in = x[l] + begin + at;
        sum[l][0] = hn::MulAdd(w0, hn::LoadU(df, in), sum[l][0]);
        sum[l][1] = hn::MulAdd(w1, hn::LoadU(df, in + kLanes), sum[l][1]);
      }
    }
    HWY_UNROLL(8)
    for (size_t l = 0; l < kAbreast; ++l) {
      hn::Store(sum[l][0], df, sums + l * kUnpackedFloats + v * kLanes);
      hn::Store(sum[l][1], df, sums + l * kUnpackedFloats + (v + 1) * kLanes);
    }
  }
}

HWY_INLINE float SumOfUnpacked(const float* sums) {
  const FloatTag df;
  FloatVec sum[4] = {hn::Zero(df), hn::Zero(df), hn::Zero(df), hn::Zero(df)};
  for (size_t v = 0; v < kUnpackedSums; ++v) sum[v] = hn::Load(df, sums + v * kLanes);
  return hn::GetLane(hn::SumOfLanes(df, hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]))));
}

// Rows [row_begin, row_end), at most kUnpackedRows; at most kUnpackedLanes lanes.
inline void MatVecUnpackedBlock(const MatrixView& w, size_t row_begin, size_t row_end,
                                const float* const* x, float* const* y, size_t lanes) {
  alignas(64) float decoded[kUnpackedColumns];
  HWY_ALIGN float sums[kUnpackedRows][kUnpackedLanes * kUnpackedFloats];
  for (size_t r = row_begin; r < row_end; ++r) {
    std::fill_n(sums[r - row_begin], lanes * kUnpackedFloats, 0.0f);
  }
  for (size_t c = 0; c < w.columns; c += kUnpackedColumns) {
    const size_t strip = std::min(kUnpackedColumns, w.columns - c);
    for (size_t r = row_begin; r < row_end; ++r) {
      for (size_t at = 0; at < strip; at += kGgmlSuperblock) {
        DecodeUnpacked(w, r, c + at, std::min(kGgmlSuperblock, strip - at), decoded + at);
      }
      ForLanes(lanes, [&]<size_t kAbreast>(size_t l) {
        DotDecoded<kAbreast>(decoded, strip, x + l, c, sums[r - row_begin] + l * kUnpackedFloats);
      });
    }
  }
  for (size_t r = row_begin; r < row_end; ++r) {
    for (size_t l = 0; l < lanes; ++l) {
      y[l][r] = SumOfUnpacked(sums[r - row_begin] + l * kUnpackedFloats);
    }
  }
}

inline void MatVecUnpacked(const MatrixView& w, size_t row_begin, size_t row_end,
                           const float* const* x, float* const* y, size_t lanes) {
  const size_t rows = lanes == 1 ? 1 : kUnpackedRows;  // One lane reads row by row.
  for (size_t l = 0; l < lanes; l += kUnpackedLanes) {
    for (size_t r = row_begin; r < row_end; r += rows) {
      MatVecUnpackedBlock(w, r, std::min(row_end, r + rows), x + l, y + l,
                          std::min(kUnpackedLanes, lanes - l));
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_MAT_VEC_UNPACKED_INL_H_
