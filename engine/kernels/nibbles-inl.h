// add_columns for kQ4, compiled once per instruction set (kernels_simd.cc).
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

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
#include <immintrin.h>
#endif

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

constexpr size_t kChunkGroups = kLanes / 4;  // 4 (AVX-512), 2 (AVX2), 1 (NEON)
constexpr size_t kChunkBytes = kLanes * 4;
constexpr size_t kSpreadCount = 16;  // columns from which on spreading the outputs pays off

static_assert(kBlockGroups % kChunkGroups == 0);

// Where the spread lanes of half a group lie; byte b of a lane is 2 * b vectors further.
HWY_INLINE size_t SpreadAt(size_t group, size_t high) { return high * kLanes + group * 4; }

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3

// Lanes looked up in in[0] and in[1]; where the mask is 1, in in[2] and in[3].
template <__mmask16 kMask>
HWY_INLINE __m512 FromFour(const __m512 (&in)[4], __m512i index) {
  return _mm512_mask_blend_ps(kMask, _mm512_permutex2var_ps(in[0], index, in[1]),
                              _mm512_permutex2var_ps(in[2], index, in[3]));
}

// in_order [kChunkGroups * 32] -> spread [8][kLanes], nibble by nibble of a lane.
HWY_INLINE void SpreadChunk(const float* HWY_RESTRICT in_order, float* HWY_RESTRICT spread) {
  // Lane 4 * group + i takes element 4 * i + b of its group: groups 0, 1 and 2, 3 are looked up.
  const __m512i index = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
  for (size_t half = 0; half < 2; ++half) {
    __m512 groups[4];
    for (size_t g = 0; g < 4; ++g) {
      groups[g] = _mm512_loadu_ps(in_order + g * kGroup + half * 16);
    }
    for (int b = 0; b < 4; ++b) {
      const __m512i at = _mm512_add_epi32(index, _mm512_set1_epi32(b));
      _mm512_store_ps(spread + (2 * b + half) * kLanes, FromFour<0xff00>(groups, at));
    }
  }
}

// The way back.
HWY_INLINE void GatherChunk(const float* HWY_RESTRICT spread, float* HWY_RESTRICT in_order) {
  // Element 4 * i + b of a group is lane 4 * group + i of byte b: bytes 0, 1 and 2, 3 are looked
  // up.
  const __m512i index = _mm512_setr_epi32(0, 16, 0, 16, 1, 17, 1, 17, 2, 18, 2, 18, 3, 19, 3, 19);
  for (size_t half = 0; half < 2; ++half) {
    __m512 bytes[4];
    for (size_t b = 0; b < 4; ++b) bytes[b] = _mm512_load_ps(spread + (2 * b + half) * kLanes);
    for (int g = 0; g < 4; ++g) {
      const __m512i at = _mm512_add_epi32(index, _mm512_set1_epi32(4 * g));
      _mm512_storeu_ps(in_order + static_cast<size_t>(g) * kGroup + half * 16,
                       FromFour<0xcccc>(bytes, at));
    }
  }
}

#else

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

#endif

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

// values[i] = the values of nibble kFirst + i.
template <size_t kFirst, size_t kCount>
HWY_INLINE void SpreadValues(hn::Vec<UintTag> codes, FloatVec* values) {
  values[0] = SpreadValue<kFirst>(codes);
  if constexpr (kCount > 1) SpreadValues<kFirst + 1, kCount - 1>(codes, values + 1);
}

// Nibbles of which every lane's sums are in registers at once.
template <size_t kAbreast>
constexpr size_t kStepNibbles = std::min<size_t>(kSumVecs / kAbreast, 8);

// The factors of a chunk as SpreadFactors() gives them: where several steps use them.
template <size_t kAbreast>
using ChunkFactors = float[kAbreast][kBatch][kLanes];

// A vector that the compiler loads once, not with every use: loads are scarcer than registers.
HWY_INLINE FloatVec InRegister(FloatVec vec) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  asm("" : "+v"(vec.raw));
#endif
  return vec;
}

// Adds the batch to nibbles [kFirst, 8) of the chunk at byte `at` of the block's codes; its factors
// begin at group g. spread[l]: the chunk's outputs.
template <size_t kAbreast, size_t kFirst = 0>
HWY_INLINE void AddNibbles(const Block<kAbreast>& block, size_t g, size_t at,
                           const ChunkFactors<kAbreast>& factors,
                           float* const (&spread)[kAbreast]) {
  constexpr size_t kCount = kStepNibbles<kAbreast>;
  const FloatTag df;
  FloatVec sum[kAbreast][kCount];
  HWY_UNROLL(8)
  for (size_t l = 0; l < kAbreast; ++l) {
    HWY_UNROLL(8)
    for (size_t n = 0; n < kCount; ++n) sum[l][n] = hn::Load(df, spread[l] + (kFirst + n) * kLanes);
  }
  for (size_t k = 0; k < block.count; ++k) {
    FloatVec values[kCount];
    SpreadValues<kFirst, kCount>(
        hn::LoadU(UintTag(), reinterpret_cast<const uint32_t*>(block.codes[k] + at)), values);
    HWY_UNROLL(8)
    for (size_t l = 0; l < kAbreast; ++l) {
      const auto factor = InRegister(kCount == 8 ? SpreadFactors(block.factors[l][k] + g)
                                                 : hn::Load(df, factors[l][k]));
      HWY_UNROLL(8)
      for (size_t n = 0; n < kCount; ++n) sum[l][n] = hn::MulAdd(factor, values[n], sum[l][n]);
    }
  }
  HWY_UNROLL(8)
  for (size_t l = 0; l < kAbreast; ++l) {
    HWY_UNROLL(8)
    for (size_t n = 0; n < kCount; ++n) {
      hn::Store(sum[l][n], df, spread[l] + (kFirst + n) * kLanes);
    }
  }
  if constexpr (kFirst + kCount < 8) {
    AddNibbles<kAbreast, kFirst + kCount>(block, g, at, factors, spread);
  }
}

// How nibbles are added in chunks: in f32. The other way is SpreadBf16 (nibbles_bf16-inl.h).
struct SpreadF32 {
  static constexpr bool kBf16 = false;

  // One block of outputs of kAbreast lanes, in spread order, spread[l] the first of them.
  template <size_t kAbreast>
  static HWY_NOINLINE void AddBlock(const Batch& batch, const float* const* coefficients,
                                    size_t group, size_t groups, float* const (&spread)[kAbreast]) {
    const FloatTag df;
    Block<kAbreast> block;
    HWY_ALIGN ChunkFactors<kAbreast> factors;
    float* at_chunk[kAbreast];
    std::copy_n(spread, kAbreast, at_chunk);
    Prepare<Codes::kNibbles>(batch, coefficients, group, groups, block);
    for (size_t g = 0; g < groups; g += kChunkGroups) {
      const size_t at = g * GroupBytes(Codes::kNibbles);
      if (at % kLine == 0) PrefetchAhead(block, at, kLine);
      for (size_t l = 0; kStepNibbles<kAbreast> < 8 && l < kAbreast; ++l) {
        for (size_t k = 0; k < block.count; ++k) {
          hn::Store(SpreadFactors(block.factors[l][k] + g), df, factors[l][k]);
        }
      }
      AddNibbles<kAbreast>(block, g, at, factors, at_chunk);
      for (float*& lane : at_chunk) lane += kChunkGroups * kGroup;
    }
  }
};

// From one lane of a tile to the next: not a multiple of what a first cache's way holds.
constexpr size_t kSpreadPadding = 80;

// All columns, groups [begin, end): whole chunks.
template <class Spread>
void AddSpreadRange(const ColumnSum& sum, size_t begin, size_t end, float* const* y) {
  HWY_ALIGN float buffer[kTileGroups * kGroup + kMostLanes * kSpreadPadding];
  const size_t tile_groups = sum.TileGroups();
  const size_t stride = tile_groups * kGroup + kSpreadPadding;
  for (size_t tile = begin; tile < end; tile += tile_groups) {
    const size_t tile_end = std::min(end, tile + tile_groups);
    const auto for_chunks = [&](auto visit) HWY_ATTR {
      for (size_t l = 0; l < sum.lanes; ++l) {
        for (size_t g = tile; g < tile_end; g += kChunkGroups) {
          visit(y[l] + g * kGroup, buffer + l * stride + (g - tile) * kGroup);
        }
      }
    };
    for_chunks([](const float* in_order, float* spread)
                   HWY_ATTR { SpreadChunk(in_order, spread); });
    ForBlocks(sum, tile, tile_end, end,
              [&]<size_t kAbreast>(const Batch& batch, size_t l, size_t group, size_t groups) {
                float* spread[kAbreast];
                for (size_t i = 0; i < kAbreast; ++i) {
                  spread[i] = buffer + (l + i) * stride + (group - tile) * kGroup;
                }
                Spread::template AddBlock<kAbreast>(batch, sum.coefficients + l, group, groups,
                                                    spread);
              });
    for_chunks([](float* in_order, const float* spread)
                   HWY_ATTR { GatherChunk(spread, in_order); });
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_NIBBLES_INL_H_
