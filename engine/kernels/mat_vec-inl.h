// mat_vec and mat_vec_lanes, compiled once per instruction set (kernels_simd.cc).
//
// Every row has, for every lane of kernels.h, one accumulator of kLanes partial sums per tile of
// columns, to which each group of 32 products is added; the partial sums are added up at the end of
// a tile. How many rows and lanes advance together never changes the order within a row: hence the
// result does not depend on the range of rows, nor on the company of a lane.
//
// One lane is the case of mat_vec. Several take a strip of the tile at a time, so that the
// activations of all of them stay in the first cache; the accumulators of a block of rows wait in
// memory meanwhile.
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
#include <bit>
#include <cstdint>
#include <cstring>

#include "base/units.h"
#include "engine/kernels/batch-inl.h"
#include "engine/kernels/decode-inl.h"
#include "engine/kernels/kernels.h"
#include "engine/kernels/mat_vec_unpacked-inl.h"
#include "engine/kernels/nibbles-inl.h"
#include "hwy/highway.h"
#include "proto/store/v1/static_rows.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

// Columns per pass over the rows: the activations of a pass stay in the first cache.
constexpr size_t kTileColumns = 4096;
constexpr size_t kTileOfGroups = kTileColumns / kGroup;

// Where lanes are abreast: the columns of a strip, so that eight lanes take 32 KiB, and the rows
// whose accumulators wait in memory.
constexpr size_t kStripColumns = 1024;
constexpr size_t kStripGroups = kStripColumns / kGroup;
constexpr size_t kStripRows = 32;

static_assert(kStripGroups % kBlockGroups == 0);

// Of rows, for lanes that are not all abreast: what stays in the second cache meanwhile.
constexpr size_t kPieceBytes = size_t{256} << 10;

// Rows that advance together, where `sums` vectors of sums fit into registers.
constexpr size_t RowsTogether(size_t abreast, size_t sums) {
  if (abreast == 1) return 4;
  return HWY_TARGET <= HWY_AVX3 ? std::min<size_t>(sums / abreast, 4) : 1;
}

template <size_t kRows, size_t kAbreast>
using RowSums = FloatVec[kRows][kAbreast];

constexpr bool HasScale(Codes codes) { return codes == Codes::kInt8 || codes == Codes::kNibbles; }

// Codes of `kRows` rows at the first column of a tile, and their scales there (quantised types).
template <size_t kRows>
struct RowTile {
  const uint8_t* codes[kRows];
  const uint8_t* scales[kRows];
  ptrdiff_t ahead_bytes = 0;  // from a row's code to the same place in what is visited next
};

// Scales of the rows' groups as floats, one block of groups at a time; padded, because
// SpreadFactors loads four at once.
template <size_t kRows>
using RowFactors = float[kRows][kBlockGroups + 4];

// The next rows come from memory while these are computed.
template <size_t kRows>
HWY_INLINE void PrefetchNextRows(const RowTile<kRows>& tile, size_t at) {
  HWY_UNROLL(4)
  for (size_t r = 0; r < kRows; ++r) PrefetchSoon(tile.codes[r] + at, tile.ahead_bytes);
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

// sum[r][l] += w[r] . x[l] over group g; x in order. Without scales the factor is one: a sum then
// is the same with or without it.
template <Codes kCodes, size_t kRows, size_t kAbreast>
HWY_INLINE void DotGroup(const RowTile<kRows>& tile, size_t g, const float* const (&x)[kAbreast],
                         const RowFactors<kRows>& factors, size_t factor,
                         RowSums<kRows, kAbreast>& sum) {
  const FloatTag df;
  FloatVec w[kRows][kVecs];
  HWY_UNROLL(4)
  for (size_t r = 0; r < kRows; ++r) {
    DecodeGroup<kCodes>(tile.codes[r] + g * GroupBytes(kCodes), w[r]);
  }
  HWY_UNROLL(8)
  for (size_t l = 0; l < kAbreast; ++l) {
    const float* in = x[l] + g * kGroup;
    FloatVec products[kRows];
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) products[r] = hn::Mul(w[r][0], hn::LoadU(df, in));
    HWY_UNROLL(8)
    for (size_t v = 1; v < kVecs; ++v) {
      const auto part = hn::LoadU(df, in + v * kLanes);
      HWY_UNROLL(4)
      for (size_t r = 0; r < kRows; ++r) products[r] = hn::MulAdd(w[r][v], part, products[r]);
    }
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) {
      sum[r][l] = HasScale(kCodes)
                      ? hn::MulAdd(hn::Set(df, factors[r][factor]), products[r], sum[r][l])
                      : hn::Add(products[r], sum[r][l]);
    }
  }
}

// products[r][l] (+)= the values of nibble kNibble . x[l], in spread order (nibbles-inl.h).
template <size_t kNibble, size_t kRows, size_t kAbreast>
HWY_INLINE void DotNibbles(const hn::Vec<UintTag> (&codes)[kRows],
                           const float* const (&spread)[kAbreast], size_t at,
                           RowSums<kRows, kAbreast>& products) {
  FloatVec values[kRows];
  HWY_UNROLL(4)
  for (size_t r = 0; r < kRows; ++r) values[r] = SpreadValue<kNibble>(codes[r]);
  HWY_UNROLL(8)
  for (size_t l = 0; l < kAbreast; ++l) {
    const auto x = hn::Load(FloatTag(), spread[l] + at + kNibble * kLanes);
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) {
      products[r][l] =
          kNibble == 0 ? hn::Mul(values[r], x) : hn::MulAdd(values[r], x, products[r][l]);
    }
  }
  if constexpr (kNibble < 7) DotNibbles<kNibble + 1>(codes, spread, at, products);
}

// sum[r][l] += w[r] . x[l] over one chunk of nibbles.
template <size_t kRows, size_t kAbreast>
HWY_INLINE void DotChunk(const RowTile<kRows>& tile, size_t g,
                         const float* const (&spread)[kAbreast], const RowFactors<kRows>& factors,
                         size_t factor, RowSums<kRows, kAbreast>& sum) {
  hn::Vec<UintTag> codes[kRows];
  RowSums<kRows, kAbreast> products;
  HWY_UNROLL(4)
  for (size_t r = 0; r < kRows; ++r) {
    codes[r] = hn::LoadU(UintTag(), reinterpret_cast<const uint32_t*>(
                                        tile.codes[r] + g * GroupBytes(Codes::kNibbles)));
  }
  DotNibbles<0>(codes, spread, g * kGroup, products);
  HWY_UNROLL(4)
  for (size_t r = 0; r < kRows; ++r) {
    const auto scale = SpreadFactors(factors[r] + factor);
    HWY_UNROLL(8)
    for (size_t l = 0; l < kAbreast; ++l) {
      sum[r][l] = hn::MulAdd(scale, products[r][l], sum[r][l]);
    }
  }
}

// Groups of a tile that are visited in chunks, with spread activations.
constexpr size_t SpreadGroups(Codes codes, size_t groups) {
  return codes == Codes::kNibbles ? groups / kChunkGroups * kChunkGroups : 0;
}

// sum[r][l] += w[r] . x[l] over whole groups, the first of which begins a block. x: in order, but
// spread for SpreadGroups.
template <Codes kCodes, size_t kRows, size_t kAbreast>
HWY_INLINE void DotGroups(const RowTile<kRows>& tile, size_t groups,
                          const float* const (&x)[kAbreast], RowSums<kRows, kAbreast>& sum) {
  RowFactors<kRows> factors;
  const size_t spread = SpreadGroups(kCodes, groups);
  for (size_t block = 0; block < groups; block += kBlockGroups) {
    if constexpr (HasScale(kCodes)) FillRowFactors<kRows>(tile, block, factors);
    const size_t end = std::min(groups, block + kBlockGroups);
    size_t g = block;
    for (; g < std::min(end, spread); g += kChunkGroups) {
      if (g * GroupBytes(kCodes) % kLine == 0) PrefetchNextRows(tile, g * GroupBytes(kCodes));
      DotChunk<kRows, kAbreast>(tile, g, x, factors, g - block, sum);
    }
    for (; g < end; ++g) {
      const size_t at = g * GroupBytes(kCodes);
      for (size_t line = RoundUp(at, kLine); line < at + GroupBytes(kCodes); line += kLine) {
        PrefetchNextRows(tile, line);
      }
      DotGroup<kCodes, kRows, kAbreast>(tile, g, x, factors, g - block, sum);
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
  RowSums<1, 1> sum = {{hn::Zero(FloatTag())}};
  const float* const in[1] = {padded_x};
  DotGroups<kCodes, 1, 1>({.codes = {padded_w}, .scales = {nullptr}}, 1, in, sum);
  return hn::GetLane(hn::SumOfLanes(FloatTag(), sum[0][0]));
}

// How a tile is multiplied: in f32. The other way is Bf16Products (nibbles_bf16-inl.h).
template <Codes kTheCodes>
struct FloatProducts {
  static constexpr Codes kCodes = kTheCodes;
  // Floats of scratch that the activations of a tile of one lane need; 0: they are taken in place.
  static constexpr size_t kArranged = kCodes == Codes::kNibbles ? kTileColumns : 0;
  // Nibbles need as many registers for products.
  static constexpr size_t kSums = kCodes == Codes::kNibbles ? 8 : 16;

  // The activations of `groups` groups as Sum() reads them; scratch [kArranged].
  static const float* Arrange(const float* x, size_t groups, float* scratch) {
    if constexpr (kArranged == 0) return x;
    std::copy_n(x, groups * kGroup, scratch);
    for (size_t g = 0; g < SpreadGroups(kCodes, groups); g += kChunkGroups) {
      SpreadChunk(x + g * kGroup, scratch + g * kGroup);
    }
    return scratch;
  }

  // A function of its own, because its loops need all registers.
  template <size_t kRows, size_t kAbreast>
  static HWY_NOINLINE void Sum(const RowTile<kRows>& tile, size_t groups,
                               const float* const (&x)[kAbreast], RowSums<kRows, kAbreast>& out) {
    RowSums<kRows, kAbreast> sum;
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t l = 0; l < kAbreast; ++l) sum[r][l] = out[r][l];
    }
    DotGroups<kCodes, kRows, kAbreast>(tile, groups, x, sum);
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t l = 0; l < kAbreast; ++l) out[r][l] = sum[r][l];
    }
  }
};

// A matrix, and where a strip of it begins.
struct Strip {
  const MatrixView* w;
  size_t scale_bytes;
  size_t tile;    // first group of the tile
  size_t begin;   // first group of the strip
  size_t groups;  // of the strip
  bool last;      // of the tile
};

// sums [kRows * kAbreast] (+)= w[r] . x[l] over a strip, for kRows rows from `row` on. `next`: the
// first group that is visited afterwards, to prefetch. After a tile's last strip, the sums are
// added up and to y[l][r].
template <class Products, size_t kRows, size_t kAbreast>
HWY_NOINLINE void DotRows(const Strip& strip, size_t row, ptrdiff_t next,
                          const float* const (&x)[kAbreast], float* HWY_RESTRICT sums,
                          float* const* y) {
  constexpr Codes kCodes = Products::kCodes;
  const FloatTag df;
  RowTile<kRows> rows;
  rows.ahead_bytes = next;
  RowSums<kRows, kAbreast> sum;
  for (size_t r = 0; r < kRows; ++r) {
    const auto* at = reinterpret_cast<const uint8_t*>(strip.w->Row(row + r));
    rows.codes[r] = at + strip.scale_bytes + strip.begin * GroupBytes(kCodes);
    rows.scales[r] = at + 2 * strip.begin;
    if constexpr (HasScale(kCodes)) PrefetchSoon(rows.scales[r], rows.ahead_bytes);
    for (size_t l = 0; l < kAbreast; ++l) {
      sum[r][l] = strip.begin == strip.tile ? hn::Zero(df)
                                            : hn::Load(df, sums + (r * kAbreast + l) * kLanes);
    }
  }
  Products::template Sum<kRows, kAbreast>(rows, strip.groups, x, sum);
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t l = 0; l < kAbreast; ++l) {
      if (!strip.last) {
        hn::Store(sum[r][l], df, sums + (r * kAbreast + l) * kLanes);
        continue;
      }
      float& out = y[l][row + r];
      out = (strip.tile == 0 ? 0.0f : out) + hn::GetLane(hn::SumOfLanes(df, sum[r][l]));
    }
  }
}

// y[l][r] (+)= w[r] . x[l] over one tile of n groups, x as arranged.
template <class Products, size_t kAbreast>
void DotTile(const MatrixView& w, size_t row_begin, size_t row_end, size_t tile, size_t n,
             const float* const (&x)[kAbreast], float* const* y) {
  constexpr size_t kRows = RowsTogether(kAbreast, Products::kSums);
  HWY_ALIGN float sums[kAbreast == 1 ? 1 : kStripRows * kAbreast * kLanes];
  const size_t strip_groups = kAbreast == 1 ? kTileOfGroups : kStripGroups;
  const size_t block_rows = kAbreast == 1 ? row_end - row_begin : kStripRows;
  for (size_t block = row_begin; block < row_end; block += block_rows) {
    const size_t block_end = std::min(row_end, block + block_rows);
    // At least one strip: it sets y where there is no group.
    for (size_t g = 0; g == 0 || g < n; g += strip_groups) {
      const Strip strip = {.w = &w,
                           .scale_bytes = StaticScaleBytes(w.type, w.columns),
                           .tile = tile,
                           .begin = tile + g,
                           .groups = std::min(strip_groups, n - g),
                           .last = g + strip_groups >= n};
      const float* in[kAbreast];
      for (size_t l = 0; l < kAbreast; ++l) in[l] = x[l] + g * kGroup;
      // From the rows of a step to those of the next one, and from the last to the next strip.
      const auto step = static_cast<ptrdiff_t>(w.row_bytes);
      const ptrdiff_t to_next_strip =
          static_cast<ptrdiff_t>(kStripGroups * GroupBytes(Products::kCodes)) -
          static_cast<ptrdiff_t>(block_end - block - kRows) * step;
      const auto sums_of = [&](size_t row) {
        return kAbreast == 1 ? sums : sums + (row - block) * kAbreast * kLanes;
      };
      size_t r = block;
      for (; r + kRows <= block_end; r += kRows) {
        const bool jump = !strip.last && r + kRows == block_end;
        DotRows<Products, kRows, kAbreast>(
            strip, r, jump ? to_next_strip : static_cast<ptrdiff_t>(kRows) * step, in, sums_of(r),
            y);
      }
      for (; r < block_end; ++r) {
        DotRows<Products, 1, kAbreast>(strip, r, step, in, sums_of(r), y);
      }
    }
  }
}

template <class Products, size_t kAbreast>
HWY_NOINLINE void MatVecAbreast(const MatrixView& w, size_t row_begin, size_t row_end,
                                const float* const* x, float* const* y) {
  constexpr Codes kCodes = Products::kCodes;
  const size_t groups = w.columns / kGroup;
  HWY_ALIGN float scratch[kAbreast][std::max<size_t>(Products::kArranged, 1)];
  for (size_t tile = 0; tile < std::max<size_t>(groups, 1); tile += kTileOfGroups) {
    const size_t n = std::min(groups - tile, kTileOfGroups);
    const float* tile_x[kAbreast];
    for (size_t l = 0; l < kAbreast; ++l) {
      tile_x[l] = Products::Arrange(x[l] + tile * kGroup, n, scratch[l]);
    }
    DotTile<Products, kAbreast>(w, row_begin, row_end, tile, n, tile_x, y);
  }
  if constexpr (!HasScale(kCodes)) {
    if (w.columns % kGroup == 0) return;
    for (size_t r = row_begin; r < row_end; ++r) {
      const auto* row = reinterpret_cast<const uint8_t*>(w.Row(r));
      for (size_t l = 0; l < kAbreast; ++l) {
        y[l][r] += DotTail<kCodes>(row, x[l], groups * kGroup, w.columns);
      }
    }
  }
}

template <class Products>
void MatVecOf(const MatrixView& w, size_t row_begin, size_t row_end, const float* const* x,
              float* const* y, size_t lanes) {
  const bool all_abreast = std::has_single_bit(lanes) && lanes <= kMostAbreast;
  const size_t rows = all_abreast
                          ? row_end - row_begin
                          : std::max(kPieceBytes / std::max<size_t>(w.row_bytes, 1), kStripRows);
  for (size_t r = row_begin; r < row_end; r += rows) {
    ForLanes(lanes, [&]<size_t kAbreast>(size_t l) {
      MatVecAbreast<Products, kAbreast>(w, r, std::min(row_end, r + rows), x + l, y + l);
    });
  }
}

// NibbleProducts: how kQ4_0 is multiplied.
template <class NibbleProducts>
void MatVecLanes(const MatrixView& w, size_t row_begin, size_t row_end, const float* const* x,
                 float* const* y, size_t lanes) {
  switch (w.type) {
    case GgmlType::kF32:
      return MatVecOf<FloatProducts<Codes::kF32>>(w, row_begin, row_end, x, y, lanes);
    case GgmlType::kF16:
      return MatVecOf<FloatProducts<Codes::kF16>>(w, row_begin, row_end, x, y, lanes);
    case GgmlType::kBF16:
      return MatVecOf<FloatProducts<Codes::kBF16>>(w, row_begin, row_end, x, y, lanes);
    case GgmlType::kQ8_0:
      return MatVecOf<FloatProducts<Codes::kInt8>>(w, row_begin, row_end, x, y, lanes);
    case GgmlType::kQ4_0:
      return MatVecOf<NibbleProducts>(w, row_begin, row_end, x, y, lanes);
    default:
      return MatVecUnpacked(w, row_begin, row_end, x, y, lanes);
  }
}

template <class NibbleProducts>
void MatVec(const MatrixView& w, size_t row_begin, size_t row_end, const float* x, float* y) {
  MatVecLanes<NibbleProducts>(w, row_begin, row_end, &x, &y, 1);
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_MAT_VEC_INL_H_
