// add_columns for kQ4 and one token, compiled once per instruction set (kernels_simd.cc).
//
// Widening each byte to a 32-bit lane costs more than the multiply-add it feeds. Here a vector of
// code bytes is taken as 32-bit lanes as it is, eight nibbles in each, and the outputs are kept in
// the matching order instead: the eight nibbles of all lanes belong to eight vectors of outputs.
// A tile of outputs is brought into that order ("spread") before its columns are added and back
// afterwards. Every output is still its own chain in the order of the columns.
//
// A chunk is what one vector of code bytes holds: kChunkGroups groups of 32. Byte b of lane
// 4 * group + i holds elements 4 * i + b (low nibble) and 16 + 4 * i + b (high nibble) of its
// group.
//
// clang-format off
#if defined(TIDEGATE_KERNELS_NIBBLES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TIDEGATE_KERNELS_NIBBLES_INL_H_
#undef TIDEGATE_KERNELS_NIBBLES_INL_H_
#else
#define TIDEGATE_KERNELS_NIBBLES_INL_H_
#endif
// clang-format on

#include <algorithm>
#include <cstdint>

#include "engine/kernels/batch-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

constexpr size_t kChunkGroups = kLanes / 4;  // 4 (AVX-512), 2 (AVX2), 1 (NEON)
constexpr size_t kChunkBytes = kLanes * 4;
constexpr size_t kSpreadCount = 16;  // columns from which on spreading the outputs pays off

static_assert(kBlockGroups % kChunkGroups == 0);

// Where the spread lanes of half a group lie; byte b of a lane is 2 * b vectors further.
HWY_INLINE size_t SpreadAt(size_t group, size_t high) { return high * kLanes + group * 4; }

// in_order [kChunkGroups * 32] -> spread [8][kLanes], nibble by nibble of a lane.
HWY_INLINE void SpreadChunk(const float* HWY_RESTRICT in_order, float* HWY_RESTRICT spread) {
  const hn::CappedTag<float, 4> d4;
  for (size_t i = 0; i < 2 * kChunkGroups; ++i) {
    float* lanes = spread + SpreadAt(i / 2, i % 2);
    hn::Vec<decltype(d4)> bytes[4];
    hn::LoadInterleaved4(d4, in_order + i * 16, bytes[0], bytes[1], bytes[2], bytes[3]);
    for (size_t b = 0; b < 4; ++b) hn::StoreU(bytes[b], d4, lanes + 2 * b * kLanes);
  }
}

// The way back.
HWY_INLINE void GatherChunk(const float* HWY_RESTRICT spread, float* HWY_RESTRICT in_order) {
  const hn::CappedTag<float, 4> d4;
  for (size_t i = 0; i < 2 * kChunkGroups; ++i) {
    const float* lanes = spread + SpreadAt(i / 2, i % 2);
    hn::Vec<decltype(d4)> bytes[4];
    for (size_t b = 0; b < 4; ++b) bytes[b] = hn::LoadU(d4, lanes + 2 * b * kLanes);
    hn::StoreInterleaved4(bytes[0], bytes[1], bytes[2], bytes[3], d4, in_order + i * 16);
  }
}

// The value of nibble kNibble of every lane.
template <size_t kNibble>
HWY_INLINE FloatVec SpreadValue(hn::Vec<UintTag> codes) {
#if HWY_TARGET <= HWY_AVX3
  // All 16 values fit into one register: the nibble is the index of its value.
  alignas(64) static constexpr float kValues[16] = {-8, -7, -6, -5, -4, -3, -2, -1,
                                                    0,  1,  2,  3,  4,  5,  6,  7};
  const FloatTag df;
  auto index = hn::ShiftRight<4 * kNibble>(codes);
  // The permutation looks at four bits; only Highway's check of indices wants the others to be 0.
  if constexpr (HWY_IS_DEBUG_BUILD) index = hn::And(index, hn::Set(UintTag(), 15));
  return hn::TableLookupLanes(hn::Load(df, kValues), hn::IndicesFromVec(df, index));
#else
  // Bits above the mantissa's end have to come down first, once for four nibbles.
  constexpr size_t kShift = 4 * kNibble % 16;
  const auto bits = kNibble < 4 ? codes : hn::ShiftRight<16>(codes);
  return NibbleValue(bits, 15u << kShift, static_cast<float>(1u << (23 - kShift)));
#endif
}

// factors[0 .. kChunkGroups) -> each four times. Four are loaded wherever vectors hold fewer
// groups: what lies behind the last factor of a block is Block::count, and not used.
HWY_INLINE FloatVec SpreadFactors(const float* factors) {
  const FloatTag df;
#if HWY_TARGET == HWY_NEON
  return hn::Set(df, *factors);
#else
  alignas(64) static constexpr int32_t kGroupOfLane[16] = {0, 0, 0, 0, 1, 1, 1, 1,
                                                           2, 2, 2, 2, 3, 3, 3, 3};
  return hn::TableLookupLanes(hn::LoadDup128(df, factors), hn::SetTableIndices(df, kGroupOfLane));
#endif
}

// Adds the batch to the chunk at byte `at` of the block's codes; factors begin at group `g`.
HWY_INLINE void AddChunk(const Block& block, size_t g, size_t at, float* HWY_RESTRICT spread) {
  const FloatTag df;
  const UintTag du;
  auto s0 = hn::Load(df, spread + 0 * kLanes);
  auto s1 = hn::Load(df, spread + 1 * kLanes);
  auto s2 = hn::Load(df, spread + 2 * kLanes);
  auto s3 = hn::Load(df, spread + 3 * kLanes);
  auto s4 = hn::Load(df, spread + 4 * kLanes);
  auto s5 = hn::Load(df, spread + 5 * kLanes);
  auto s6 = hn::Load(df, spread + 6 * kLanes);
  auto s7 = hn::Load(df, spread + 7 * kLanes);
  for (size_t k = 0; k < block.count; ++k) {
    const auto codes = hn::LoadU(du, reinterpret_cast<const uint32_t*>(block.codes[k] + at));
    const auto factor = SpreadFactors(block.factors[k] + g);
    s0 = hn::MulAdd(factor, SpreadValue<0>(codes), s0);
    s1 = hn::MulAdd(factor, SpreadValue<1>(codes), s1);
    s2 = hn::MulAdd(factor, SpreadValue<2>(codes), s2);
    s3 = hn::MulAdd(factor, SpreadValue<3>(codes), s3);
    s4 = hn::MulAdd(factor, SpreadValue<4>(codes), s4);
    s5 = hn::MulAdd(factor, SpreadValue<5>(codes), s5);
    s6 = hn::MulAdd(factor, SpreadValue<6>(codes), s6);
    s7 = hn::MulAdd(factor, SpreadValue<7>(codes), s7);
  }
  hn::Store(s0, df, spread + 0 * kLanes);
  hn::Store(s1, df, spread + 1 * kLanes);
  hn::Store(s2, df, spread + 2 * kLanes);
  hn::Store(s3, df, spread + 3 * kLanes);
  hn::Store(s4, df, spread + 4 * kLanes);
  hn::Store(s5, df, spread + 5 * kLanes);
  hn::Store(s6, df, spread + 6 * kLanes);
  hn::Store(s7, df, spread + 7 * kLanes);
}

// One block of outputs, in spread order: in f32. The other way is AddSpreadBlockBf16().
HWY_NOINLINE void AddSpreadBlock(const Batch& batch, const float* coefficients, size_t group,
                                 size_t groups, float* HWY_RESTRICT spread) {
  Block block;
  Prepare<Codes::kNibbles>(batch, coefficients, group, groups, block);
  for (size_t g = 0; g < groups; g += kChunkGroups) {
    const size_t at = g * GroupBytes(Codes::kNibbles);
    if (at % kLine == 0) PrefetchAhead(block, at, kLine);
    AddChunk(block, g, at, spread + g * kGroup);
  }
}

using AddSpread = void (*)(const Batch& batch, const float* coefficients, size_t group,
                           size_t groups, float* spread);

// All columns, groups [begin, end): whole chunks.
template <AddSpread kAddBlock, bool kBf16>
void AddSpreadRange(const uint8_t* const* columns, size_t count, size_t scale_bytes,
                    const float* coefficients, size_t begin, size_t end, float* y) {
  HWY_ALIGN float spread[kTileGroups * kGroup];
  for (size_t tile = begin; tile < end; tile += kTileGroups) {
    const size_t tile_end = std::min(end, tile + kTileGroups);
    for (size_t g = tile; g < tile_end; g += kChunkGroups) {
      SpreadChunk(y + g * kGroup, spread + (g - tile) * kGroup);
    }
    for (size_t k = 0; k < count; k += kBatch) {
      Batch batch = MakeBatch(columns, count, scale_bytes, k, tile, tile_end, end);
      batch.bf16 = kBf16;
      for (size_t group = tile; group < tile_end; group += kBlockGroups) {
        kAddBlock(batch, coefficients + k, group, std::min(kBlockGroups, tile_end - group),
                  spread + (group - tile) * kGroup);
      }
    }
    for (size_t g = tile; g < tile_end; g += kChunkGroups) {
      GatherChunk(spread + (g - tile) * kGroup, y + g * kGroup);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_NIBBLES_INL_H_
