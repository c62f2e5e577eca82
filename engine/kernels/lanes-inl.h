// mat_vec_lanes and add_columns_lanes, compiled once per instruction set (kernels_simd.cc): pieces
// of the weights that stay in the second cache while the kernel of one row runs over them for every
// lane.
//
// clang-format off
#if defined(TIDEGATE_KERNELS_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TIDEGATE_KERNELS_LANES_INL_H_
#undef TIDEGATE_KERNELS_LANES_INL_H_
#else
#define TIDEGATE_KERNELS_LANES_INL_H_
#endif
// clang-format on

#include <algorithm>
#include <cstdint>

#include "engine/kernels/kernels.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

constexpr size_t kPieceBytes = size_t{256} << 10;  // of weights

// One piece: this many outputs of this many columns.
constexpr size_t kPieceOutputs = 4096;
constexpr size_t kPieceColumns = 64;

static_assert(kPieceOutputs * kPieceColumns <= kPieceBytes);  // q8

template <auto kAddColumns>
void AddColumnsLanes(UnitEncoding encoding, const uint8_t* const* columns,
                     const float* const* coefficients, size_t count, size_t elements, size_t begin,
                     size_t end, float* const* y, size_t lanes) {
  for (size_t first = begin; first < end; first += kPieceOutputs) {
    const size_t last = std::min(end, first + kPieceOutputs);
    for (size_t k = 0; k < count; k += kPieceColumns) {
      const size_t n = std::min(kPieceColumns, count - k);
      for (size_t l = 0; l < lanes; ++l) {
        kAddColumns(encoding, columns + k, coefficients[l] + k, n, elements, first, last, y[l]);
      }
    }
  }
}

template <auto kMatVec>
void MatVecLanes(const MatrixView& w, size_t row_begin, size_t row_end, const float* const* x,
                 float* const* y, size_t lanes) {
  const size_t rows = std::max<size_t>(kPieceBytes / std::max<size_t>(w.row_bytes, 1), 4);
  for (size_t r = row_begin; r < row_end; r += rows) {
    for (size_t l = 0; l < lanes; ++l) kMatVec(w, r, std::min(r + rows, row_end), x[l], y[l]);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_LANES_INL_H_
