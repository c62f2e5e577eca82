// add_columns, compiled once per instruction set (kernels_simd.cc). The
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

// Adds the batch to kGroups groups of outputs.
template <Codes kCodes, size_t kGroups>
HWY_INLINE void AddGroups(const Block& block, size_t g, float* HWY_RESTRICT y) {
  const FloatTag df;
  FloatVec sum[kGroups][kVecs];
  HWY_UNROLL(2)
  for (size_t i = 0; i < kGroups; ++i) {
    HWY_UNROLL(8)
    for (size_t v = 0; v < kVecs; ++v) {
      sum[i][v] = hn::LoadU(df, y + (g + i) * kGroup + v * kLanes);
    }
  }
  for (size_t k = 0; k < block.count; ++k) {
    HWY_UNROLL(2)
    for (size_t i = 0; i < kGroups; ++i) {
      FloatVec w[kVecs];
      DecodeGroup<kCodes>(block.codes[k] + (g + i) * GroupBytes(kCodes), w);
      const auto factor = hn::Set(df, block.factors[k][g + i]);
      HWY_UNROLL(8)
      for (size_t v = 0; v < kVecs; ++v) sum[i][v] = hn::MulAdd(factor, w[v], sum[i][v]);
    }
  }
  HWY_UNROLL(2)
  for (size_t i = 0; i < kGroups; ++i) {
    HWY_UNROLL(8)
    for (size_t v = 0; v < kVecs; ++v) {
      hn::StoreU(sum[i][v], df, y + (g + i) * kGroup + v * kLanes);
    }
  }
}

// One block of up to kBlockGroups groups; y points at its first output.
template <Codes kCodes>
HWY_NOINLINE void AddBlock(const Batch& batch, const float* coefficients, size_t group,
                           size_t groups, float* HWY_RESTRICT y) {
  constexpr size_t kBytes = GroupBytes(kCodes);
  constexpr size_t kStep = 2;  // groups in registers
  Block block;
  Prepare<kCodes>(batch, coefficients, group, groups, block);
  size_t g = 0;
  for (; g + kStep <= groups; g += kStep) {
    if (g * kBytes % kLine == 0) PrefetchAhead(block, g * kBytes, kStep * kBytes);
    AddGroups<kCodes, kStep>(block, g, y);
  }
  for (; g < groups; ++g) AddGroups<kCodes, 1>(block, g, y);
}

// All columns, groups [begin, end).
template <Codes kCodes, bool kBf16 = false>
void AddGroupRange(const uint8_t* const* columns, size_t count, size_t scale_bytes,
                   const float* coefficients, size_t begin, size_t end, float* y) {
  for (size_t tile = begin; tile < end; tile += kTileGroups) {
    const size_t tile_end = std::min(end, tile + kTileGroups);
    for (size_t k = 0; k < count; k += kBatch) {
      Batch batch = MakeBatch(columns, count, scale_bytes, k, tile, tile_end, end);
      batch.bf16 = kBf16;
      for (size_t group = tile; group < tile_end; group += kBlockGroups) {
        AddBlock<kCodes>(batch, coefficients + k, group, std::min(kBlockGroups, tile_end - group),
                         y + group * kGroup);
      }
    }
  }
}

// The last elements of a float column whose length is not a multiple of a group.
inline void AddTail(UnitEncoding encoding, const uint8_t* const* columns, size_t count,
                    const float* coefficients, size_t begin, size_t end, float* y) {
  for (size_t k = 0; k < count; ++k) {
    for (size_t j = begin; j < end; ++j) {
      const float w = encoding == UnitEncoding::kF32
                          ? reinterpret_cast<const float*>(columns[k])[j]
                          : HalfToFloat(reinterpret_cast<const uint16_t*>(columns[k])[j]);
      y[j] = std::fma(coefficients[k], w, y[j]);
    }
  }
}

// kAddBlock adds nibbles in chunks, with rounded factors if kBf16.
template <AddSpread kAddBlock, bool kBf16>
void AddColumns(UnitEncoding encoding, const uint8_t* const* columns, const float* coefficients,
                size_t count, size_t elements, size_t begin, size_t end, float* y) {
  size_t first = begin / kGroup;
  const size_t last = end / kGroup;
  const size_t scale_bytes = ColumnScaleBytes(encoding, elements);
  const auto run = [&](auto add) {
    add(columns, count, scale_bytes, coefficients, first, last, y);
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
      if (count >= kSpreadCount) {
        const size_t whole = (last - first) / kChunkGroups * kChunkGroups;
        AddSpreadRange<kAddBlock, kBf16>(columns, count, scale_bytes, coefficients, first,
                                         first + whole, y);
        first += whole;
      }
      run(AddGroupRange<Codes::kNibbles, kBf16>);
      break;
  }
  AddTail(encoding, columns, count, coefficients, std::max(begin, last * kGroup), end, y);
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_COLUMNS_INL_H_
