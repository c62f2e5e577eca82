// add_columns and add_columns_tokens, compiled once per instruction set (kernels_simd.cc). The
// order of the work is told in batch-inl.h.
//
// clang-format off
#if defined(TIDEGATE_KERNELS_COLUMNS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TIDEGATE_KERNELS_COLUMNS_INL_H_
#undef TIDEGATE_KERNELS_COLUMNS_INL_H_
#else
#define TIDEGATE_KERNELS_COLUMNS_INL_H_
#endif
// clang-format on

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "engine/kernels/batch-inl.h"
#include "engine/kernels/nibbles-inl.h"
#include "hwy/highway.h"
#include "proto/gguf/ggml_type.h"
#include "proto/store/v1/unit_codec.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

// Tokens whose outputs share one decoding: what fits into 16 (AVX2) or 32 vector registers.
constexpr size_t kTokenTile = HWY_TARGET == HWY_AVX2 ? 2 : 4;

// Adds the batch to kGroups groups of every token.
template <Codes kCodes, size_t kTokens, size_t kGroups>
HWY_INLINE void AddGroups(const Block<kTokens>& block, size_t g, float* HWY_RESTRICT y,
                          size_t y_stride) {
  const FloatTag df;
  FloatVec sum[kTokens][kGroups][kVecs];
  HWY_UNROLL(4)
  for (size_t t = 0; t < kTokens; ++t) {
    HWY_UNROLL(2)
    for (size_t i = 0; i < kGroups; ++i) {
      HWY_UNROLL(8)
      for (size_t v = 0; v < kVecs; ++v) {
        sum[t][i][v] = hn::LoadU(df, y + t * y_stride + (g + i) * kGroup + v * kLanes);
      }
    }
  }
  for (size_t k = 0; k < block.count; ++k) {
    HWY_UNROLL(2)
    for (size_t i = 0; i < kGroups; ++i) {
      FloatVec w[kVecs];
      DecodeGroup<kCodes>(block.codes[k] + (g + i) * GroupBytes(kCodes), w);
      HWY_UNROLL(4)
      for (size_t t = 0; t < kTokens; ++t) {
        const auto factor = hn::Set(df, block.factors[k * kTokens + t][g + i]);
        HWY_UNROLL(8)
        for (size_t v = 0; v < kVecs; ++v) sum[t][i][v] = hn::MulAdd(factor, w[v], sum[t][i][v]);
      }
    }
  }
  HWY_UNROLL(4)
  for (size_t t = 0; t < kTokens; ++t) {
    HWY_UNROLL(2)
    for (size_t i = 0; i < kGroups; ++i) {
      HWY_UNROLL(8)
      for (size_t v = 0; v < kVecs; ++v) {
        hn::StoreU(sum[t][i][v], df, y + t * y_stride + (g + i) * kGroup + v * kLanes);
      }
    }
  }
}

// One block of up to kBlockGroups groups; y points at its first output.
template <Codes kCodes, size_t kTokens>
HWY_NOINLINE void AddBlock(const Batch& batch, const float* coefficients, size_t group,
                           size_t groups, float* HWY_RESTRICT y, size_t y_stride) {
  constexpr size_t kBytes = GroupBytes(kCodes);
  constexpr size_t kStep = kTokens == 1 ? 2 : 1;  // groups in registers
  Block<kTokens> block;
  Prepare<kCodes>(batch, coefficients, group, groups, block);
  size_t g = 0;
  for (; g + kStep <= groups; g += kStep) {
    if (g * kBytes % kLine == 0) PrefetchAhead(block, g * kBytes, kStep * kBytes);
    AddGroups<kCodes, kTokens, kStep>(block, g, y, y_stride);
  }
  for (; g < groups; ++g) AddGroups<kCodes, kTokens, 1>(block, g, y, y_stride);
}

// All groups [begin, end) of a tile for kTokens tokens from `token` on; y: token 0, output 0.
template <Codes kCodes, size_t kTokens>
HWY_INLINE void AddTile(const Batch& batch, const Coefficients& x, size_t k0, size_t token,
                        size_t begin, size_t end, float* y, size_t y_stride) {
  float coefficients[kBatch * kTokens];
  for (size_t k = 0; k < batch.count; ++k) {
    for (size_t t = 0; t < kTokens; ++t) coefficients[k * kTokens + t] = x.At(k0 + k, token + t);
  }
  for (size_t group = begin; group < end; group += kBlockGroups) {
    AddBlock<kCodes, kTokens>(batch, coefficients, group, std::min(kBlockGroups, end - group),
                              y + token * y_stride + group * kGroup, y_stride);
  }
}

// All columns, all tokens, groups [begin, end).
template <Codes kCodes>
void AddGroupRange(const uint8_t* const* columns, size_t count, size_t scale_bytes,
                   const Coefficients& x, size_t tokens, size_t begin, size_t end, float* y,
                   size_t y_stride) {
  for (size_t tile = begin; tile < end; tile += kTileGroups) {
    const size_t tile_end = std::min(end, tile + kTileGroups);
    for (size_t k = 0; k < count; k += kBatch) {
      Batch batch = MakeBatch(columns, count, scale_bytes, k, tile, tile_end, end);
      size_t t = 0;
      for (; t + kTokenTile <= tokens; t += kTokenTile) {
        AddTile<kCodes, kTokenTile>(batch, x, k, t, tile, tile_end, y, y_stride);
        batch.prefetch = false;
      }
      for (; t < tokens; ++t) {
        AddTile<kCodes, 1>(batch, x, k, t, tile, tile_end, y, y_stride);
        batch.prefetch = false;
      }
    }
  }
}

// The last elements of a float column whose length is not a multiple of a group.
inline void AddTail(UnitEncoding encoding, const uint8_t* const* columns, size_t count,
                    const Coefficients& x, size_t tokens, size_t begin, size_t end, float* y,
                    size_t y_stride) {
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t k = 0; k < count; ++k) {
      const float coefficient = x.At(k, t);
      for (size_t j = begin; j < end; ++j) {
        const float w = encoding == UnitEncoding::kF32
                            ? reinterpret_cast<const float*>(columns[k])[j]
                            : HalfToFloat(reinterpret_cast<const uint16_t*>(columns[k])[j]);
        y[t * y_stride + j] = std::fma(coefficient, w, y[t * y_stride + j]);
      }
    }
  }
}

inline void AddRange(UnitEncoding encoding, const uint8_t* const* columns, size_t count,
                     size_t elements, const Coefficients& x, size_t tokens, size_t begin,
                     size_t end, float* y, size_t y_stride) {
  size_t first = begin / kGroup;
  const size_t last = end / kGroup;
  const size_t scale_bytes = ColumnScaleBytes(encoding, elements);
  const auto run = [&](auto add) {
    add(columns, count, scale_bytes, x, tokens, first, last, y, y_stride);
  };
  switch (encoding) {
    case UnitEncoding::kF32:
      run(AddGroupRange<Codes::kF32>);
      break;
    case UnitEncoding::kF16:
      run(AddGroupRange<Codes::kF16>);
      break;
    case UnitEncoding::kQ8:
      run(AddGroupRange<Codes::kInt8>);
      break;
    case UnitEncoding::kQ4:
      if (tokens == 1 && count >= kSpreadCount) {
        const size_t whole = (last - first) / kChunkGroups * kChunkGroups;
        AddSpreadRange(columns, count, scale_bytes, x.x, first, first + whole, y);
        first += whole;
      }
      run(AddGroupRange<Codes::kNibbles>);
      break;
  }
  AddTail(encoding, columns, count, x, tokens, std::max(begin, last * kGroup), end, y, y_stride);
}

inline void AddColumns(UnitEncoding encoding, const uint8_t* const* columns,
                       const float* coefficients, size_t count, size_t elements, size_t begin,
                       size_t end, float* y) {
  const Coefficients x = {.x = coefficients};
  AddRange(encoding, columns, count, elements, x, 1, begin, end, y, 0);
}

inline void AddColumnsTokens(UnitEncoding encoding, const uint8_t* const* columns,
                             const uint32_t* column_index, size_t count, size_t elements,
                             size_t begin, size_t end, const float* x, size_t x_stride,
                             size_t tokens, float* y, size_t y_stride) {
  const Coefficients coefficients = {.x = x, .x_stride = x_stride, .index = column_index};
  AddRange(encoding, columns, count, elements, coefficients, tokens, begin, end, y, y_stride);
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_COLUMNS_INL_H_
