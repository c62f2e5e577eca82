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

// factors[p][g]: columns 2p and 2p + 1 in the upper and lower half.
using PairFactors = uint32_t[kBatch / 2][kBlockGroups];

// Adds 2 * kPairs columns to the chunk at byte `at` of the block's codes.
template <size_t kPairs>
TIDEGATE_BF16 HWY_INLINE void AddPairsToChunk(const Block& block, const PairFactors& factors,
                                              size_t g, size_t at, float* HWY_RESTRICT spread) {
  const __m512i table = NibbleTable();
  const auto load = [&](size_t i) HWY_ATTR { return _mm512_load_ps(spread + i * kLanes); };
  __m512 s0 = load(0), s1 = load(1), s2 = load(2), s3 = load(3);
  __m512 s4 = load(4), s5 = load(5), s6 = load(6), s7 = load(7);
  HWY_UNROLL(4)
  for (size_t p = 0; p < kPairs; ++p) {
    const __m512i a = _mm512_loadu_si512(block.codes[2 * p] + at);
    const __m512i b = _mm512_loadu_si512(block.codes[2 * p + 1] + at);
    const __m512i low = JoinHalves(_mm512_slli_epi32(a, 16), b);
    const __m512i high = JoinHalves(a, _mm512_srli_epi32(b, 16));
    const auto factor = SpreadFactors(reinterpret_cast<const float*>(factors[p] + g)).raw;
    s0 = TIDEGATE_DOT(s0, WordValues<0>(low, table), factor);
    s1 = TIDEGATE_DOT(s1, WordValues<1>(low, table), factor);
    s2 = TIDEGATE_DOT(s2, WordValues<2>(low, table), factor);
    s3 = TIDEGATE_DOT(s3, WordValues<3>(low, table), factor);
    s4 = TIDEGATE_DOT(s4, WordValues<0>(high, table), factor);
    s5 = TIDEGATE_DOT(s5, WordValues<1>(high, table), factor);
    s6 = TIDEGATE_DOT(s6, WordValues<2>(high, table), factor);
    s7 = TIDEGATE_DOT(s7, WordValues<3>(high, table), factor);
  }
  const __m512 sums[8] = {s0, s1, s2, s3, s4, s5, s6, s7};
  HWY_UNROLL(8)
  for (size_t i = 0; i < 8; ++i) _mm512_store_ps(spread + i * kLanes, sums[i]);
}

// An odd last column gets a partner that adds nothing.
inline void CompletePairs(Block& block) {
  if (block.count % 2 == 0) return;
  block.codes[block.count] = block.codes[block.count - 1];
  std::fill_n(block.factors[block.count], kBlockGroups, 0.0f);
  ++block.count;
}

template <size_t kPairs>
TIDEGATE_BF16 HWY_NOINLINE void AddPairs(const Block& block, size_t groups,
                                         float* HWY_RESTRICT spread) {
  HWY_ALIGN PairFactors factors;
  for (size_t p = 0; p < kPairs; ++p) {
    const __m512i upper = _mm512_castps_si512(_mm512_load_ps(block.factors[2 * p]));
    const __m512i lower = _mm512_castps_si512(_mm512_load_ps(block.factors[2 * p + 1]));
    _mm512_store_si512(factors[p], JoinHalves(upper, _mm512_srli_epi32(lower, 16)));
  }
  for (size_t g = 0; g < groups; g += kChunkGroups) {
    const size_t at = g * GroupBytes(Codes::kNibbles);
    PrefetchAhead(block, at, kLine);
    AddPairsToChunk<kPairs>(block, factors, g, at, spread + g * kGroup);
  }
}

// As AddSpreadBlock(); the batch has rounded factors.
inline void AddSpreadBlockBf16(const Batch& batch, const float* coefficients, size_t group,
                               size_t groups, float* HWY_RESTRICT spread) {
  Block block;
  Prepare<Codes::kNibbles>(batch, coefficients, group, groups, block);
  CompletePairs(block);
  switch (block.count / 2) {
    case 1:
      return AddPairs<1>(block, groups, spread);
    case 2:
      return AddPairs<2>(block, groups, spread);
    case 3:
      return AddPairs<3>(block, groups, spread);
    default:
      return AddPairs<4>(block, groups, spread);
  }
}

// How mat_vec multiplies a tile of nibbles in bf16 (see FloatProducts).
struct Bf16Products {
  static constexpr Codes kCodes = Codes::kNibbles;

  // Vectors of a chunk's activations, and 16-bit words in them: nibble j of word w of the codes
  // meets word w of vector j.
  static constexpr size_t kVectors = 4;
  static constexpr size_t kWords = 32;

  // Rounded; chunks as words, in the first half of the place of their floats. Every thread does
  // this for all of x: it pays from some 50 rows per thread on.
  static const float* Arrange(const float* x, size_t groups, float* scratch) {
    for (size_t i = 0; i < groups * kGroup; ++i) scratch[i] = RoundToBf16(x[i]);
    for (size_t g = 0; g < SpreadGroups(kCodes, groups); g += kChunkGroups) {
      uint16_t words[kVectors * kWords];
      for (size_t j = 0; j < kVectors; ++j) {
        for (size_t w = 0; w < kWords; ++w) {
          const size_t at = w / 8 * kGroup + j % 2 * 16 + 2 * (w % 8) + j / 2;
          words[j * kWords + w] =
              static_cast<uint16_t>(std::bit_cast<uint32_t>(scratch[g * kGroup + at]) >> 16);
        }
      }
      std::memcpy(scratch + g * kGroup, words, sizeof(words));
    }
    return scratch;
  }

  template <size_t kRows>
  TIDEGATE_BF16 static HWY_INLINE void SumChunk(const RowTile<kRows>& tile, size_t g,
                                                const float* HWY_RESTRICT words,
                                                const RowFactors<kRows>& factors, size_t factor,
                                                FloatVec (&sum)[kRows]) {
    const __m512i table = NibbleTable();
    const auto load = [&](size_t j) HWY_ATTR { return _mm512_load_si512(words + j * kWords / 2); };
    const __m512i x0 = load(0), x1 = load(1), x2 = load(2), x3 = load(3);
    HWY_UNROLL(4)
    for (size_t r = 0; r < kRows; ++r) {
      const __m512i codes = _mm512_loadu_si512(tile.codes[r] + g * GroupBytes(kCodes));
      __m512 products = TIDEGATE_DOT(_mm512_setzero_ps(), WordValues<0>(codes, table), x0);
      products = TIDEGATE_DOT(products, WordValues<1>(codes, table), x1);
      products = TIDEGATE_DOT(products, WordValues<2>(codes, table), x2);
      products = TIDEGATE_DOT(products, WordValues<3>(codes, table), x3);
      sum[r].raw = _mm512_fmadd_ps(SpreadFactors(factors[r] + factor).raw, products, sum[r].raw);
    }
  }

  template <size_t kRows>
  TIDEGATE_BF16 static HWY_NOINLINE void Sum(const RowTile<kRows>& tile, size_t groups,
                                             const float* HWY_RESTRICT x, FloatVec (&out)[kRows]) {
    HWY_ALIGN RowFactors<kRows> factors;
    FloatVec sum[kRows];
    for (size_t r = 0; r < kRows; ++r) sum[r] = out[r];
    const size_t spread = SpreadGroups(kCodes, groups);
    for (size_t block = 0; block < groups; block += kBlockGroups) {
      FillRowFactors<kRows>(tile, block, factors);
      const size_t end = std::min(groups, block + kBlockGroups);
      size_t g = block;
      for (; g < std::min(end, spread); g += kChunkGroups) {
        PrefetchNextRows(tile, g * GroupBytes(kCodes));
        SumChunk<kRows>(tile, g, x + g * kGroup, factors, g - block, sum);
      }
      for (; g < end; ++g) {
        DotGroup<kCodes, kRows>(tile, g, x + g * kGroup, factors, g - block, sum);
      }
    }
    for (size_t r = 0; r < kRows; ++r) out[r] = sum[r];
  }
};

inline void MatVecBf16(const MatrixView& w, size_t row_begin, size_t row_end, const float* x,
                       float* y) {
  if (w.type == GgmlType::kQ4_0) return MatVecOf<Bf16Products>(w, row_begin, row_end, x, y);
  MatVec(w, row_begin, row_end, x, y);
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // AVX-512

#endif  // TIDEGATE_KERNELS_NIBBLES_BF16_INL_H_
