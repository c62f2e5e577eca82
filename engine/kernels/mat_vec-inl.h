// mat_vec, compiled once per instruction set (kernels_simd.cc).
//
// Every row has one accumulator of kLanes partial sums per tile of columns, to which each group of
// 32 products is added; the lanes are summed at the end of a tile. How many rows advance together
// never changes the order within a row: hence the result does not depend on the range of rows.
//
// Nibbles are taken as in nibbles-inl.h: eight to a lane, against activations in the same order.
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

#include "base/units.h"
#include "engine/kernels/batch-inl.h"
#include "engine/kernels/decode-inl.h"
#include "engine/kernels/kernels.h"
#include "engine/kernels/nibbles-inl.h"
#include "engine/kernels/unpacked-inl.h"
#include "hwy/highway.h"
#include "proto/store/v1/static_rows.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

// Columns per pass over the rows: the activations of a pass stay in the first cache.
constexpr size_t kTileColumns = 4096;
constexpr size_t kTileOfGroups = kTileColumns / kGroup;

// Codes of `kRows` rows at the first column of a tile, and their scales there (quantised types).
template <size_t kRows>
struct RowTile {
  const uint8_t* codes[kRows];
  const uint8_t* scales[kRows];
  size_t ahead_bytes = 0;  // from a row's code to the same place in what is visited next
};

// Scales of the rows' groups as floats, one block of groups at a time; padded, because
// SpreadFactors loads four at once.
template <size_t kRows>
using RowFactors = float[kRows][kBlockGroups + 4];

// The next rows come from memory while these are computed.
template <size_t kRows>
HWY_INLINE void PrefetchNextRows(const RowTile<kRows>& tile, size_t at) {
  HWY_UNROLL(4)
  for (size_t r = 0; r < kRows; ++r) PrefetchSoon(tile.codes[r] + tile.ahead_bytes + at);
}

// factors[r][g] = scale of group g, for kBlockGroups groups from `group` on. Reads whole vectors of
// scales: what lies behind a row's last scale is its codes.
template <size_t kRows>
HWY_INLINE void FillRowFactors(const RowTile<kRows>& tile, size_t group,
                               RowFactors<kRows>& factors) {
  const FloatTag df;
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t g = 0; g < kBlockGroups; g += kLanes) {
      const auto scales = LoadNarrow<hwy::float16_t>(tile.scales[r] + 2 * (group + g));
      hn::StoreU(hn::PromoteTo(df, scales), df, factors[r] + g);
    }
  }
}

// sum[r] += w[r] . x over one group of 32 columns; x in order.
template <Codes kCodes, size_t kRows>
HWY_INLINE void DotGroup(const RowTile<kRows>& tile, size_t g, const float* HWY_RESTRICT x,
                         const RowFactors<kRows>& factors, size_t factor, FloatVec (&sum)[kRows]) {
  const FloatTag df;
  HWY_UNROLL(4)
  for (size_t r = 0; r < kRows; ++r) {
    FloatVec w[kVecs];
    DecodeGroup<kCodes>(tile.codes[r] + g * GroupBytes(kCodes), w);
    auto products = hn::Mul(w[0], hn::LoadU(df, x));
    HWY_UNROLL(8)
    for (size_t v = 1; v < kVecs; ++v) {
      products = hn::MulAdd(w[v], hn::LoadU(df, x + v * kLanes), products);
    }
    sum[r] = hn::MulAdd(hn::Set(df, factors[r][factor]), products, sum[r]);
  }
}

// sum[r] += w[r] . x over one chunk of nibbles; x in spread order (nibbles-inl.h).
template <size_t kNibble, size_t kRows>
HWY_INLINE void DotNibble(const hn::Vec<UintTag> (&codes)[kRows], const float* HWY_RESTRICT spread,
                          FloatVec (&products)[kRows]) {
  const auto x = hn::Load(FloatTag(), spread + kNibble * kLanes);
  HWY_UNROLL(4)
  for (size_t r = 0; r < kRows; ++r) {
    const auto value = SpreadValue<kNibble>(codes[r]);
    products[r] = kNibble == 0 ? hn::Mul(value, x) : hn::MulAdd(value, x, products[r]);
  }
}

template <size_t kRows>
HWY_INLINE void DotChunk(const RowTile<kRows>& tile, size_t g, const float* HWY_RESTRICT spread,
                         const RowFactors<kRows>& factors, size_t factor, FloatVec (&sum)[kRows]) {
  hn::Vec<UintTag> codes[kRows];
  FloatVec products[kRows];
  HWY_UNROLL(4)
  for (size_t r = 0; r < kRows; ++r) {
    codes[r] = hn::LoadU(UintTag(), reinterpret_cast<const uint32_t*>(
                                        tile.codes[r] + g * GroupBytes(Codes::kNibbles)));
  }
  DotNibble<0>(codes, spread, products);
  DotNibble<1>(codes, spread, products);
  DotNibble<2>(codes, spread, products);
  DotNibble<3>(codes, spread, products);
  DotNibble<4>(codes, spread, products);
  DotNibble<5>(codes, spread, products);
  DotNibble<6>(codes, spread, products);
  DotNibble<7>(codes, spread, products);
  HWY_UNROLL(4)
  for (size_t r = 0; r < kRows; ++r) {
    sum[r] = hn::MulAdd(SpreadFactors(factors[r] + factor), products[r], sum[r]);
  }
}

constexpr bool HasScale(Codes codes) { return codes == Codes::kInt8 || codes == Codes::kNibbles; }

// Groups of a tile that are visited in chunks, with spread activations.
constexpr size_t SpreadGroups(Codes codes, size_t groups) {
  return codes == Codes::kNibbles ? groups / kChunkGroups * kChunkGroups : 0;
}

// sum[r] = w[r] . x over the whole groups of a tile. x: in order, but spread for SpreadGroups.
template <Codes kCodes, size_t kRows>
HWY_INLINE void DotGroups(const RowTile<kRows>& tile, size_t groups, const float* HWY_RESTRICT x,
                          FloatVec (&sum)[kRows]) {
  RowFactors<kRows> factors;
  if constexpr (!HasScale(kCodes)) {
    for (auto& row : factors) std::fill(std::begin(row), std::end(row), 1.0f);
  }
  const size_t spread = SpreadGroups(kCodes, groups);
  for (size_t block = 0; block < groups; block += kBlockGroups) {
    if constexpr (HasScale(kCodes)) FillRowFactors<kRows>(tile, block, factors);
    const size_t end = std::min(groups, block + kBlockGroups);
    size_t g = block;
    for (; g < std::min(end, spread); g += kChunkGroups) {
      if (g * GroupBytes(kCodes) % kLine == 0) PrefetchNextRows(tile, g * GroupBytes(kCodes));
      DotChunk<kRows>(tile, g, x + g * kGroup, factors, g - block, sum);
    }
    for (; g < end; ++g) {
      const size_t at = g * GroupBytes(kCodes);
      for (size_t line = RoundUp(at, kLine); line < at + GroupBytes(kCodes); line += kLine) {
        PrefetchNextRows(tile, line);
      }
      DotGroup<kCodes, kRows>(tile, g, x + g * kGroup, factors, g - block, sum);
    }
  }
}

// The last columns of a row of floats, zero-padded to a group.
template <Codes kCodes>
HWY_NOINLINE float DotTail(const uint8_t* row, const float* x, size_t begin, size_t columns) {
  constexpr size_t kElementBytes = GroupBytes(kCodes) / kGroup;
  float padded_x[kGroup] = {};
  uint8_t padded_w[GroupBytes(kCodes)] = {};
  std::memcpy(padded_x, x + begin, (columns - begin) * sizeof(float));
  std::memcpy(padded_w, row + begin * kElementBytes, (columns - begin) * kElementBytes);
  FloatVec sum[1] = {hn::Zero(FloatTag())};
  DotGroups<kCodes, 1>({.codes = {padded_w}, .scales = {nullptr}}, 1, padded_x, sum);
  return hn::GetLane(hn::SumOfLanes(FloatTag(), sum[0]));
}

// How a tile is multiplied: in f32. The other way is Bf16Products (nibbles_bf16-inl.h).
template <Codes kTheCodes>
struct FloatProducts {
  static constexpr Codes kCodes = kTheCodes;

  // The activations of a tile as Sum() reads them; scratch [kTileColumns].
  static const float* Arrange(const float* x, size_t groups, float* scratch) {
    if constexpr (kCodes != Codes::kNibbles) return x;
    std::copy_n(x, groups * kGroup, scratch);
    for (size_t g = 0; g < SpreadGroups(kCodes, groups); g += kChunkGroups) {
      SpreadChunk(x + g * kGroup, scratch + g * kGroup);
    }
    return scratch;
  }

  template <size_t kRows>
  static HWY_INLINE void Sum(const RowTile<kRows>& tile, size_t groups, const float* x,
                             FloatVec (&sum)[kRows]) {
    DotGroups<kCodes, kRows>(tile, groups, x, sum);
  }
};

// y[r] (+)= w[r] . x over one tile of columns, for kRows rows.
template <class Products, size_t kRows>
HWY_NOINLINE void DotRows(const uint8_t* row, size_t row_bytes, size_t scale_bytes, size_t tile,
                          size_t groups, const float* HWY_RESTRICT x, float* HWY_RESTRICT y) {
  constexpr Codes kCodes = Products::kCodes;
  const FloatTag df;
  RowTile<kRows> rows;
  rows.ahead_bytes = kRows * row_bytes;
  FloatVec sum[kRows];
  for (size_t r = 0; r < kRows; ++r) {
    rows.codes[r] = row + r * row_bytes + scale_bytes + tile * GroupBytes(kCodes);
    rows.scales[r] = row + r * row_bytes + 2 * tile;
    if constexpr (HasScale(kCodes)) PrefetchSoon(rows.scales[r] + rows.ahead_bytes);
    sum[r] = hn::Zero(df);
  }
  Products::Sum(rows, groups, x, sum);
  for (size_t r = 0; r < kRows; ++r) {
    y[r] = (tile == 0 ? 0.0f : y[r]) + hn::GetLane(hn::SumOfLanes(df, sum[r]));
  }
}

template <class Products>
void MatVecOf(const MatrixView& w, size_t row_begin, size_t row_end, const float* x, float* y) {
  constexpr Codes kCodes = Products::kCodes;
  constexpr size_t kRows = 4;
  const size_t groups = w.columns / kGroup;
  const size_t scale_bytes = StaticScaleBytes(w.type, w.columns);
  const auto row = [&](size_t r) { return reinterpret_cast<const uint8_t*>(w.Row(r)); };
  HWY_ALIGN float scratch[kCodes == Codes::kNibbles ? kTileColumns : 1];
  for (size_t tile = 0; tile < std::max<size_t>(groups, 1); tile += kTileOfGroups) {
    const size_t n = std::min(groups - tile, kTileOfGroups);
    const float* tile_x = Products::Arrange(x + tile * kGroup, n, scratch);
    size_t r = row_begin;
    for (; r + kRows <= row_end; r += kRows) {
      DotRows<Products, kRows>(row(r), w.row_bytes, scale_bytes, tile, n, tile_x, y + r);
    }
    for (; r < row_end; ++r) {
      DotRows<Products, 1>(row(r), w.row_bytes, scale_bytes, tile, n, tile_x, y + r);
    }
  }
  if constexpr (!HasScale(kCodes)) {
    for (size_t r = row_begin; w.columns % kGroup != 0 && r < row_end; ++r) {
      y[r] += DotTail<kCodes>(row(r), x, groups * kGroup, w.columns);
    }
  }
}

// Types that are unpacked block by block: a superblock is decoded into the first cache and
// multiplied from there.
inline void MatVecUnpacked(const MatrixView& w, size_t row_begin, size_t row_end, const float* x,
                           float* y) {
  const FloatTag df;
  alignas(64) float decoded[kGgmlSuperblock];
  for (size_t r = row_begin; r < row_end; ++r) {
    FloatVec sum[4] = {hn::Zero(df), hn::Zero(df), hn::Zero(df), hn::Zero(df)};
    for (size_t c = 0; c < w.columns; c += kGgmlSuperblock) {
      const size_t count = std::min(kGgmlSuperblock, w.columns - c);
      DecodeUnpacked(w, r, c, count, decoded);
      for (size_t i = 0; i < count; i += kGroup) {
        HWY_UNROLL(8)
        for (size_t v = 0; v < kVecs; ++v) {
          const size_t at = i + v * kLanes;
          sum[v % 4] =
              hn::MulAdd(hn::Load(df, decoded + at), hn::LoadU(df, x + c + at), sum[v % 4]);
        }
      }
    }
    const auto total = hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]));
    y[r] = hn::GetLane(hn::SumOfLanes(df, total));
  }
}

inline void MatVec(const MatrixView& w, size_t row_begin, size_t row_end, const float* x,
                   float* y) {
  switch (w.type) {
    case GgmlType::kF32:
      return MatVecOf<FloatProducts<Codes::kF32>>(w, row_begin, row_end, x, y);
    case GgmlType::kF16:
      return MatVecOf<FloatProducts<Codes::kF16>>(w, row_begin, row_end, x, y);
    case GgmlType::kBF16:
      return MatVecOf<FloatProducts<Codes::kBF16>>(w, row_begin, row_end, x, y);
    case GgmlType::kQ8_0:
      return MatVecOf<FloatProducts<Codes::kInt8>>(w, row_begin, row_end, x, y);
    case GgmlType::kQ4_0:
      return MatVecOf<FloatProducts<Codes::kNibbles>>(w, row_begin, row_end, x, y);
    default:
      return MatVecUnpacked(w, row_begin, row_end, x, y);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_MAT_VEC_INL_H_
