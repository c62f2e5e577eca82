// A batch of columns and what one block of outputs needs from it: shared by the two ways of adding
// columns (columns-inl.h, nibbles-inl.h). Compiled once per instruction set (kernels_simd.cc).
//
// Order of the work, outermost first: a tile of outputs that stays in the second cache; a batch of
// columns; a block of 512 outputs, whose scales become floats (times the coefficients) at once;
// the lanes of kernels.h, a few abreast; a step of outputs that stays in registers while the
// columns of the batch are added, each decoded once for the lanes abreast. One lane is the case of
// add_columns.
// Meanwhile what comes a little later in the same columns, or first in the next ones, is
// prefetched: columns are scattered over memory and short, so that the hardware's prefetcher
// rarely gets going before a column is over.
//
// clang-format off
#if defined(TIDEGATE_KERNELS_BATCH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TIDEGATE_KERNELS_BATCH_INL_H_
#undef TIDEGATE_KERNELS_BATCH_INL_H_
#else
#define TIDEGATE_KERNELS_BATCH_INL_H_
#endif
// clang-format on

#include <algorithm>
#include <cstdint>

#include "engine/kernels/decode-inl.h"
#include "hwy/highway.h"
#include "proto/store/v1/unit_codec.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

constexpr size_t kBatch = 8;  // columns per pass; 16 lost a quarter (first caches are 8-way)
constexpr size_t kBlockGroups = 16;
// Tiles of one lane: 16384 outputs = 64 KiB of floats, which the second cache holds. Smaller tiles,
// for the first cache, read each column in several short pieces and lost more to memory.
constexpr size_t kTileGroups = 512;
constexpr size_t kMostLanes = kTileGroups / kBlockGroups;  // of one pass over the columns
constexpr size_t kLine = 64;                               // bytes per cache line
constexpr size_t kAheadBytes = 2048;                       // prefetch distance within each column

static_assert(kGroup == kQuantGroup);

// How many lanes advance abreast at most, and how many vectors of sums they keep in registers.
constexpr size_t kMostAbreast = HWY_TARGET == HWY_AVX2 ? 4 : 8;
constexpr size_t kSumVecs = HWY_TARGET == HWY_AVX2 ? 8 : 16;

// Brings a line into the second cache. Not into the first: slots begin at whole pages, so that the
// same place of eight columns falls into one set of an 8-way first cache, and what is fetched for
// later drives out what is about to be used (a quarter of the speed with long columns, half with
// short ones).
HWY_INLINE void PrefetchSoon(const uint8_t* at) { __builtin_prefetch(at, 0, 2); }
// The same `bytes` from there, which may lie outside of the array: no pointer is made of it before.
HWY_INLINE void PrefetchSoon(const uint8_t* from, ptrdiff_t bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(from) + static_cast<uintptr_t>(bytes);
  PrefetchSoon(reinterpret_cast<const uint8_t*>(at));
}

// Which columns are added to which lanes.
struct ColumnSum {
  const uint8_t* const* columns;
  size_t count;
  size_t scale_bytes;                // of a column; 0: no scales
  const float* const* coefficients;  // [lanes][count]
  size_t lanes;                      // <= kMostLanes
  bool bf16;                         // factors are rounded

  // All lanes' outputs of a tile are as large as a tile of one lane.
  size_t TileGroups() const {
    return std::max<size_t>(kTileGroups / std::max<size_t>(lanes, 1) / kBlockGroups, 1) *
           kBlockGroups;
  }
};

// What the passes over one batch of columns share.
struct Batch {
  const uint8_t* const* columns = nullptr;
  size_t count = 0;  // <= kBatch
  size_t first = 0;  // the batch's first column among all
  size_t scale_bytes = 0;
  size_t tile_begin = 0;  // groups
  size_t tile_end = 0;
  const uint8_t* const* next = nullptr;  // what follows the tile: to prefetch
  size_t next_count = 0;
  size_t next_shift = 0;  // groups: the next batch may belong to the next tile
  bool prefetch = true;
  bool grouped = false;
  bool bf16 = false;
};

// RoundToBf16() of every lane.
HWY_INLINE FloatVec RoundedToBf16(FloatVec value) {
  const UintTag du;
  const auto bits = hn::Add(hn::BitCast(du, value), hn::Set(du, 0x8000u));
  return hn::BitCast(FloatTag(), hn::And(bits, hn::Set(du, 0xffff0000u)));
}

// One batch within one block of outputs, for kAbreast lanes.
template <size_t kAbreast>
struct Block {
  // factors[lane][k][g] = coefficient * scale of group g of the block, rounded as Batch::bf16 says.
  HWY_ALIGN float factors[kAbreast][kBatch][kBlockGroups];
  size_t count = 0;
  const uint8_t* codes[kBatch];  // of the block's first group
  size_t ahead_count = 0;
  const uint8_t* ahead[kBatch];  // what will be needed kAheadBytes per column later
};

// Converts whole vectors of scales: up to kLanes - 1 halves beyond the last one are read and not
// used. They lie inside the column, because the codes follow the scales.
template <size_t kAbreast>
HWY_INLINE void FillFactors(const Batch& batch, const float* const* coefficients, size_t group,
                            size_t groups, Block<kAbreast>& block) {
  const FloatTag df;
  for (size_t k = 0; k < batch.count; ++k) {
    for (size_t g = 0; g < groups; g += kLanes) {
      const auto scales =
          batch.grouped
              ? hn::PromoteTo(df, LoadNarrow<hwy::float16_t>(batch.columns[k] + 2 * (group + g)))
              : hn::Set(df, 1.0f);
      HWY_UNROLL(8)
      for (size_t l = 0; l < kAbreast; ++l) {
        const auto factor = hn::Mul(hn::Set(df, coefficients[l][batch.first + k]), scales);
        hn::Store(batch.bf16 ? RoundedToBf16(factor) : factor, df, block.factors[l][k] + g);
      }
    }
  }
}

template <Codes kCodes, size_t kAbreast>
HWY_INLINE void Prepare(const Batch& batch, const float* const* coefficients, size_t group,
                        size_t groups, Block<kAbreast>& block) {
  constexpr size_t kBytes = GroupBytes(kCodes);
  FillFactors(batch, coefficients, group, groups, block);
  block.count = batch.count;
  for (size_t k = 0; k < batch.count; ++k) {
    block.codes[k] = batch.columns[k] + batch.scale_bytes + group * kBytes;
  }
  block.ahead_count = 0;
  if (!batch.prefetch) return;
  const size_t tile_groups = batch.tile_end - batch.tile_begin;
  size_t ahead = group + std::min(kAheadBytes / kBytes, tile_groups);
  const uint8_t* const* columns = batch.columns;
  block.ahead_count = batch.count;
  if (ahead >= batch.tile_end) {
    ahead += batch.next_shift - tile_groups;
    columns = batch.next;
    block.ahead_count = batch.next_count;
  }
  for (size_t k = 0; k < block.ahead_count; ++k) {
    if (batch.grouped) PrefetchSoon(columns[k] + 2 * ahead);
    block.ahead[k] = columns[k] + batch.scale_bytes + ahead * kBytes;
  }
}

// Prefetches bytes [at, at + bytes) of what comes kAheadBytes later.
template <size_t kAbreast>
HWY_INLINE void PrefetchAhead(const Block<kAbreast>& block, size_t at, size_t bytes) {
  for (size_t k = 0; k < block.ahead_count; ++k) {
    for (size_t line = 0; line < bytes; line += kLine) PrefetchSoon(block.ahead[k] + at + line);
  }
}

// The batch that starts at column k, for the tile [tile_begin, tile_end) of the groups up to `end`.
HWY_INLINE Batch MakeBatch(const ColumnSum& sum, size_t k, size_t tile_begin, size_t tile_end,
                           size_t end) {
  Batch batch;
  batch.columns = sum.columns + k;
  batch.count = std::min(kBatch, sum.count - k);
  batch.first = k;
  batch.scale_bytes = sum.scale_bytes;
  batch.grouped = sum.scale_bytes != 0;
  batch.bf16 = sum.bf16;
  batch.tile_begin = tile_begin;
  batch.tile_end = tile_end;
  const bool last = k + kBatch >= sum.count;
  const size_t tile_groups = sum.TileGroups();
  if (!last || tile_end + tile_groups <= end) {
    batch.next = last ? sum.columns : sum.columns + k + kBatch;
    batch.next_count = std::min(kBatch, last ? sum.count : sum.count - k - kBatch);
    batch.next_shift = last ? tile_groups : 0;
  }
  return batch;
}

// Calls add<kAbreast>(l) for all lanes l, l + 1, ..., as many abreast as possible.
template <class Add>
HWY_INLINE void ForLanes(size_t lanes, const Add& add) {
  size_t l = 0;
  if constexpr (kMostAbreast == 8) {
    for (; l + 8 <= lanes; l += 8) add.template operator()<8>(l);
  }
  for (; l + 4 <= lanes; l += 4) add.template operator()<4>(l);
  for (; l + 2 <= lanes; l += 2) add.template operator()<2>(l);
  if (l < lanes) add.template operator()<1>(l);
}

// Calls add<kAbreast>(batch, l, group, groups) for every batch of columns, block of outputs of the
// tile and lane.
template <class Add>
HWY_INLINE void ForBlocks(const ColumnSum& sum, size_t tile_begin, size_t tile_end, size_t end,
                          const Add& add) {
  for (size_t k = 0; k < sum.count; k += kBatch) {
    Batch batch = MakeBatch(sum, k, tile_begin, tile_end, end);
    for (size_t group = tile_begin; group < tile_end; group += kBlockGroups) {
      const size_t groups = std::min(kBlockGroups, tile_end - group);
      ForLanes(sum.lanes, [&]<size_t kAbreast>(size_t l) {
        batch.prefetch = l == 0;  // Once for all lanes.
        add.template operator()<kAbreast>(batch, l, group, groups);
      });
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_BATCH_INL_H_
