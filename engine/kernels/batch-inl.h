// A batch of columns and what one block of outputs needs from it: shared by the two ways of adding
// columns (columns-inl.h, nibbles-inl.h). Compiled once per instruction set (kernels_simd.cc).
//
// Order of the work, outermost first: a tile of outputs that stays in the second cache; a batch of
// columns; a block of 512 outputs, whose scales become floats (times the coefficients) at once;
// a step of outputs that stays in registers while the columns of the batch are added.
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
// 16384 outputs = 64 KiB of floats, which the second cache holds. Smaller tiles, for the first
// cache, read each column in several short pieces and lost more to memory.
constexpr size_t kTileGroups = 512;
constexpr size_t kLine = 64;          // bytes per cache line
constexpr size_t kAheadBytes = 2048;  // prefetch distance within each column

static_assert(kGroup == kQuantGroup);

// Brings a line into the second cache. Not into the first: slots begin at whole pages, so that the
// same place of eight columns falls into one set of an 8-way first cache, and what is fetched for
// later drives out what is about to be used (a quarter of the speed with long columns, half with
// short ones).
HWY_INLINE void PrefetchSoon(const uint8_t* at) { __builtin_prefetch(at, 0, 2); }

// What the passes over one batch of columns share.
struct Batch {
  const uint8_t* const* columns = nullptr;
  size_t count = 0;  // <= kBatch
  size_t scale_bytes = 0;
  size_t tile_begin = 0;  // groups
  size_t tile_end = 0;
  const uint8_t* const* next = nullptr;  // what follows the tile: to prefetch
  size_t next_count = 0;
  size_t next_shift = 0;  // groups: the next batch may belong to the next tile
  bool grouped = false;
  bool bf16 = false;  // factors are rounded
};

// factors[k][g] = coefficient * scale of groups [group, group + groups), rounded as batch.bf16
// says.
using Factors = float[kBatch][kBlockGroups];

// RoundToBf16() of every lane.
HWY_INLINE FloatVec RoundedToBf16(FloatVec value) {
  const UintTag du;
  const auto bits = hn::Add(hn::BitCast(du, value), hn::Set(du, 0x8000u));
  return hn::BitCast(FloatTag(), hn::And(bits, hn::Set(du, 0xffff0000u)));
}

// Converts whole vectors of scales: up to kLanes - 1 halves beyond the last one are read and not
// used. They lie inside the column, because the codes follow the scales.
HWY_INLINE void FillFactors(const Batch& batch, const float* coefficients, size_t group,
                            size_t groups, Factors& factors) {
  const FloatTag df;
  for (size_t k = 0; k < batch.count; ++k) {
    for (size_t g = 0; g < groups; g += kLanes) {
      const auto scales =
          batch.grouped
              ? hn::PromoteTo(df, LoadNarrow<hwy::float16_t>(batch.columns[k] + 2 * (group + g)))
              : hn::Set(df, 1.0f);
      const auto factor = hn::Mul(hn::Set(df, coefficients[k]), scales);
      hn::Store(batch.bf16 ? RoundedToBf16(factor) : factor, df, factors[k] + g);
    }
  }
}

// One batch within one block of outputs.
struct Block {
  HWY_ALIGN Factors factors;
  size_t count = 0;
  const uint8_t* codes[kBatch];  // of the block's first group
  size_t ahead_count = 0;
  const uint8_t* ahead[kBatch];  // what will be needed kAheadBytes per column later
};

template <Codes kCodes>
HWY_INLINE void Prepare(const Batch& batch, const float* coefficients, size_t group, size_t groups,
                        Block& block) {
  constexpr size_t kBytes = GroupBytes(kCodes);
  FillFactors(batch, coefficients, group, groups, block.factors);
  block.count = batch.count;
  for (size_t k = 0; k < batch.count; ++k) {
    block.codes[k] = batch.columns[k] + batch.scale_bytes + group * kBytes;
  }
  block.ahead_count = 0;
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
HWY_INLINE void PrefetchAhead(const Block& block, size_t at, size_t bytes) {
  for (size_t k = 0; k < block.ahead_count; ++k) {
    for (size_t line = 0; line < bytes; line += kLine) PrefetchSoon(block.ahead[k] + at + line);
  }
}

// The batch that starts at column k, for the tile [tile, tile_end) of the groups up to `end`.
HWY_INLINE Batch MakeBatch(const uint8_t* const* columns, size_t count, size_t scale_bytes,
                           size_t k, size_t tile_begin, size_t tile_end, size_t end) {
  Batch batch;
  batch.columns = columns + k;
  batch.count = std::min(kBatch, count - k);
  batch.scale_bytes = scale_bytes;
  batch.grouped = scale_bytes != 0;
  batch.tile_begin = tile_begin;
  batch.tile_end = tile_end;
  const bool last = k + kBatch >= count;
  if (!last || tile_end + kTileGroups <= end) {
    batch.next = last ? columns : columns + k + kBatch;
    batch.next_count = std::min(kBatch, last ? count : count - k - kBatch);
    batch.next_shift = last ? kTileGroups : 0;
  }
  return batch;
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_BATCH_INL_H_
