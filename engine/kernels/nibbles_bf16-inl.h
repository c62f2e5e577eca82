// Nibbles against bfloat16, two at a time: the inner loops of the bf16 arithmetic (kernels.h), for
// CPUs with vdpbf16ps. It takes lanes of two bfloat16, so that one permutation decodes two codes
// and one instruction multiplies both: y = fma(a.upper, b.upper, y), then the same of the lower
// halves. Compiled once per AVX-512 target (kernels_simd.cc); the packaged Highway does not know
// the instruction, hence the intrinsics and the attribute.
//
// clang-format off
#if defined(TIDEGATE_KERNELS_NIBBLES_BF16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TIDEGATE_KERNELS_NIBBLES_BF16_INL_H_
#undef TIDEGATE_KERNELS_NIBBLES_BF16_INL_H_
#else
#define TIDEGATE_KERNELS_NIBBLES_BF16_INL_H_
#endif
// clang-format on

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "engine/kernels/batch-inl.h"
#include "engine/kernels/mat_vec-inl.h"
#include "engine/kernels/nibbles-inl.h"
#include "hwy/highway.h"

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3

#include <immintrin.h>

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

// Clang takes the attribute instead of the target that Highway has set, GCC beside it.
#define TIDEGATE_BF16 __attribute__((target(HWY_TARGET_STR ",avx512bf16")))

// The bfloat16 of -8 .. 7, twice: the permutation looks at five bits, the fifth of which belongs to
// the next nibble.
HWY_INLINE __m512i NibbleTable() {
  alignas(64) static constexpr uint16_t kValues[32] = {
      0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,  // -8 .. -1
      0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,  // 0 .. 7
      0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,  //
      0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};
  return _mm512_load_si512(kValues);
}

// The values of nibble kNibble of every 16-bit word.
template <int kNibble>
HWY_INLINE __m512i WordValues(__m512i codes, __m512i table) {
  return _mm512_permutexvar_epi16(kNibble == 0 ? codes : _mm512_srli_epi16(codes, 4 * kNibble),
                                  table);
}

// sum + a . b, lane by lane.
#define TIDEGATE_DOT(sum, a, b) _mm512_dpbf16_ps(sum, (__m512bh)(a), (__m512bh)(b))

// Upper halves from a, lower ones from b.
HWY_INLINE __m512i JoinHalves(__m512i a, __m512i b) {
  return _mm512_mask_blend_epi16(0xaaaaaaaau, b, a);
}

// The values of nibble kValue of every lane, for two columns.
template <size_t kValue>
HWY_INLINE __m512i PairValues(__m512i a, __m512i b, __m512i table) {
  const __m512i half = kValue < 4 ? JoinHalves(_mm512_slli_epi32(a, 16), b)
                                  : JoinHalves(a, _mm512_srli_epi32(b, 16));
  return WordValues<kValue % 4>(half, table);
}

template <size_t kFirst, size_t kCount>
HWY_INLINE void PairValuesFrom(__m512i a, __m512i b, __m512i table, __m512i* values) {
  values[0] = PairValues<kFirst>(a, b, table);
  if constexpr (kCount > 1) {
    PairValuesFrom<kFirst + 1, kCount - 1>(a, b, table, values + 1);
  }
}

// pairs[lane][p][g]: the factors of columns 2p and 2p + 1 in the upper and lower half.
template <size_t kAbreast>
using PairFactors = uint32_t[kAbreast][kBatch / 2][kBlockGroups];

// A lane's pairs p from group g on, each four times.
template <size_t kAbreast>
HWY_INLINE __m512 SpreadPair(const PairFactors<kAbreast>& factors, size_t l, size_t p, size_t g) {
  return SpreadFactors(reinterpret_cast<const float*>(factors[l][p] + g)).raw;
}

// SpreadPair() of a chunk: where several steps use them.
template <size_t kAbreast>
using ChunkPairs = float[kAbreast][kBatch / 2][kLanes];

// Adds the columns of the block, two by two, to nibbles [kFirst, 8) of the chunk at byte `at`; its
// factors begin at group g.
template <size_t kAbreast, size_t kFirst = 0>
TIDEGATE_BF16 HWY_INLINE void AddPairs(const Block<kAbreast>& block,
                                       const PairFactors<kAbreast>& factors, size_t g, size_t at,
                                       const ChunkPairs<kAbreast>& chunk,
                                       float* const (&spread)[kAbreast]) {
  constexpr size_t kCount = kStepNibbles<kAbreast>;
  const __m512i table = NibbleTable();
  __m512 sum[kAbreast][kCount];
  HWY_UNROLL(8)
  for (size_t l = 0; l < kAbreast; ++l) {
    HWY_UNROLL(8)
    for (size_t n = 0; n < kCount; ++n) {
      sum[l][n] = _mm512_load_ps(spread[l] + (kFirst + n) * kLanes);
    }
  }
  for (size_t p = 0; p < block.count / 2; ++p) {
    __m512i values[kCount];
    PairValuesFrom<kFirst, kCount>(_mm512_loadu_si512(block.codes[2 * p] + at),
                                   _mm512_loadu_si512(block.codes[2 * p + 1] + at), table, values);
    HWY_UNROLL(8)
    for (size_t l = 0; l < kAbreast; ++l) {
      const __m512 pair =
          kCount == 8 ? SpreadPair<kAbreast>(factors, l, p, g) : _mm512_load_ps(chunk[l][p]);
      HWY_UNROLL(8)
      for (size_t n = 0; n < kCount; ++n) sum[l][n] = TIDEGATE_DOT(sum[l][n], values[n], pair);
    }
  }
  HWY_UNROLL(8)
  for (size_t l = 0; l < kAbreast; ++l) {
    HWY_UNROLL(8)
    for (size_t n = 0; n < kCount; ++n) {
      _mm512_store_ps(spread[l] + (kFirst + n) * kLanes, sum[l][n]);
    }
  }
  if constexpr (kFirst + kCount < 8) {
    AddPairs<kAbreast, kFirst + kCount>(block, factors, g, at, chunk, spread);
  }
}

// An odd last column gets a partner that adds nothing.
template <size_t kAbreast>
void CompletePairs(Block<kAbreast>& block) {
  if (block.count % 2 == 0) return;
  block.codes[block.count] = block.codes[block.count - 1];
  for (auto& lane : block.factors) std::fill_n(lane[block.count], kBlockGroups, 0.0f);
  ++block.count;
}

// How nibbles are added in chunks: in bf16. The batches have rounded factors.
struct SpreadBf16 {
  static constexpr bool kBf16 = true;

  template <size_t kAbreast>
  TIDEGATE_BF16 static HWY_NOINLINE void AddBlock(const Batch& batch,
                                                  const float* const* coefficients, size_t group,
                                                  size_t groups, float* const (&spread)[kAbreast]) {
    Block<kAbreast> block;
    Prepare<Codes::kNibbles>(batch, coefficients, group, groups, block);
    CompletePairs(block);
    HWY_ALIGN PairFactors<kAbreast> factors;
    for (size_t l = 0; l < kAbreast; ++l) {
      for (size_t p = 0; p < block.count / 2; ++p) {
        const __m512i upper = _mm512_castps_si512(_mm512_load_ps(block.factors[l][2 * p]));
        const __m512i lower = _mm512_castps_si512(_mm512_load_ps(block.factors[l][2 * p + 1]));
        _mm512_store_si512(factors[l][p], JoinHalves(upper, _mm512_srli_epi32(lower, 16)));
      }
    }
    AddChunks<kAbreast>(block, factors, groups, spread);
  }

 private:
  // A function of its own, because its loops need all registers.
  template <size_t kAbreast>
  TIDEGATE_BF16 static HWY_NOINLINE void AddChunks(const Block<kAbreast>& block,
                                                   const PairFactors<kAbreast>& factors,
                                                   size_t groups,
                                                   float* const (&spread)[kAbreast]) {
    HWY_ALIGN ChunkPairs<kAbreast> chunk;
    float* at_chunk[kAbreast];
    std::copy_n(spread, kAbreast, at_chunk);
    for (size_t g = 0; g < groups; g += kChunkGroups) {
      const size_t at = g * GroupBytes(Codes::kNibbles);
      PrefetchAhead(block, at, kLine);
      for (size_t l = 0; kStepNibbles<kAbreast> < 8 && l < kAbreast; ++l) {
        for (size_t p = 0; p < block.count / 2; ++p) {
          _mm512_store_ps(chunk[l][p], SpreadPair<kAbreast>(factors, l, p, g));
        }
      }
      AddPairs<kAbreast>(block, factors, g, at, chunk, at_chunk);
      for (float*& lane : at_chunk) lane += kChunkGroups * kGroup;
    }
  }
};

// How mat_vec multiplies a tile of nibbles in bf16 (see FloatProducts).
struct Bf16Products {
  static constexpr Codes kCodes = Codes::kNibbles;
  static constexpr size_t kArranged = kTileColumns;
  static constexpr size_t kSums = 16;

  // Vectors of a chunk's activations, and 16-bit words in them: nibble j of word w of the codes
  // meets word w of vector j, which is element w / 8 * 32 + j % 2 * 16 + 2 * (w % 8) + j / 2 of the
  // chunk.
  static constexpr size_t kVectors = 4;
  static constexpr size_t kWords = 32;

  // Words 4 * i + 1 + odd of two vectors of 32-bit lanes, twice: the upper halves of every second
  // lane.
  static HWY_INLINE __m512i UpperWords(__m512i a, __m512i b, size_t odd) {
    alignas(64) static constexpr uint16_t kIndex[kWords] = {
        1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45, 49, 53, 57, 61,
        1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45, 49, 53, 57, 61};
    const auto index = _mm512_add_epi16(_mm512_load_si512(kIndex),
                                        _mm512_set1_epi16(static_cast<int16_t>(2 * odd)));
    return _mm512_permutex2var_epi16(a, index, b);
  }

  // Rounded; chunks as words, in the first half of the place of their floats.
  static HWY_NOINLINE const float* Arrange(const float* x, size_t groups, float* scratch) {
    const size_t spread = SpreadGroups(kCodes, groups);
    for (size_t g = 0; g < spread; g += kChunkGroups) {
      for (size_t half = 0; half < 2; ++half) {
        __m512i in[kChunkGroups];
        for (size_t i = 0; i < kChunkGroups; ++i) {
          const auto floats = hn::LoadU(FloatTag(), x + (g + i) * kGroup + half * 16);
          in[i] = _mm512_castps_si512(RoundedToBf16(floats).raw);
        }
        for (size_t odd = 0; odd < 2; ++odd) {
          const __m512i words = _mm512_mask_blend_epi16(0xffff0000u, UpperWords(in[0], in[1], odd),
                                                        UpperWords(in[2], in[3], odd));
          _mm512_store_si512(scratch + g * kGroup + (half + 2 * odd) * kWords / 2, words);
        }
      }
    }
    for (size_t i = spread * kGroup; i < groups * kGroup; ++i) scratch[i] = RoundToBf16(x[i]);
    return scratch;
  }

  template <size_t kRows, size_t kAbreast>
  TIDEGATE_BF16 static HWY_INLINE void SumChunk(const RowTile<kRows>& tile, size_t g,
                                                const float* const (&x)[kAbreast],
                                                const RowFactors<kRows>& factors, size_t factor,
                                                RowSums<kRows, kAbreast>& sum) {
    const __m512i table = NibbleTable();
    __m512i values[kRows][kVectors];
    __m512 scales[kRows];
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) {
      const __m512i codes = _mm512_loadu_si512(tile.codes[r] + g * GroupBytes(kCodes));
      values[r][0] = WordValues<0>(codes, table);
      values[r][1] = WordValues<1>(codes, table);
      values[r][2] = WordValues<2>(codes, table);
      values[r][3] = WordValues<3>(codes, table);
      scales[r] = SpreadFactors(factors[r] + factor).raw;
    }
    HWY_UNROLL(8)
    for (size_t l = 0; l < kAbreast; ++l) {
      const float* words = x[l] + g * kGroup;
      __m512 products[kRows];
      HWY_UNROLL(4)
      for (size_t r = 0; r < kRows; ++r) products[r] = _mm512_setzero_ps();
      HWY_UNROLL(4)
      for (size_t j = 0; j < kVectors; ++j) {
        const __m512i in = _mm512_load_si512(words + j * kWords / 2);
        HWY_UNROLL(4)
        for (size_t r = 0; r < kRows; ++r) {
          products[r] = TIDEGATE_DOT(products[r], values[r][j], in);
        }
      }
      HWY_UNROLL(4)
      for (size_t r = 0; r < kRows; ++r) {
        sum[r][l].raw = _mm512_fmadd_ps(scales[r], products[r], sum[r][l].raw);
      }
    }
  }

  template <size_t kRows, size_t kAbreast>
  TIDEGATE_BF16 static HWY_NOINLINE void Sum(const RowTile<kRows>& tile, size_t groups,
                                             const float* const (&x)[kAbreast],
                                             RowSums<kRows, kAbreast>& out) {
    HWY_ALIGN RowFactors<kRows> factors;
    RowSums<kRows, kAbreast> sum;
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t l = 0; l < kAbreast; ++l) sum[r][l] = out[r][l];
    }
    const size_t spread = SpreadGroups(kCodes, groups);
    for (size_t block = 0; block < groups; block += kBlockGroups) {
      FillRowFactors<kRows>(tile, block, factors);
      const size_t end = std::min(groups, block + kBlockGroups);
      size_t g = block;
      for (; g < std::min(end, spread); g += kChunkGroups) {
        PrefetchNextRows(tile, g * GroupBytes(kCodes));
        SumChunk<kRows, kAbreast>(tile, g, x, factors, g - block, sum);
      }
      for (; g < end; ++g) {
        DotGroup<kCodes, kRows, kAbreast>(tile, g, x, factors, g - block, sum);
      }
    }
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t l = 0; l < kAbreast; ++l) out[r][l] = sum[r][l];
    }
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // AVX-512

#endif  // TIDEGATE_KERNELS_NIBBLES_BF16_INL_H_
