// add_columns and add_columns_lanes, compiled once per instruction set (kernels_simd.cc). The order
// of the work is told in batch-inl.h.
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

// Vectors of outputs in registers at once, for each of kAbreast lanes.
template <size_t kAbreast>
constexpr size_t kStepVecs = kAbreast == 1 ? 2 * kVecs : kSumVecs / kAbreast;

// Adds the batch to vectors [kFirst, kFirst + kCount) of the outputs from group g on; y[l] is the
// block's first output.
template <Codes kCodes, size_t kAbreast, size_t kFirst, size_t kCount>
HWY_INLINE void AddVectors(const Block<kAbreast>& block, size_t g, float* const (&y)[kAbreast]) {
  const FloatTag df;
  const size_t at = g * kGroup + kFirst * kLanes;
  FloatVec sum[kAbreast][kCount];
  HWY_UNROLL(8)
  for (size_t l = 0; l < kAbreast; ++l) {
    HWY_UNROLL(16)
    for (size_t v = 0; v < kCount; ++v) sum[l][v] = hn::LoadU(df, y[l] + at + v * kLanes);
  }
  for (size_t k = 0; k < block.count; ++k) {
    FloatVec w[kCount];
    HWY_UNROLL(16)
    for (size_t v = 0; v < kCount; ++v) {
      const size_t vec = kFirst + v;
      w[v] = DecodeVector<kCodes>(block.codes[k] + (g + vec / kVecs) * GroupBytes(kCodes),
                                  vec % kVecs);
    }
    HWY_UNROLL(8)
    for (size_t l = 0; l < kAbreast; ++l) {
      HWY_UNROLL(16)
      for (size_t v = 0; v < kCount; ++v) {
        const auto factor = hn::Set(df, block.factors[l][k][g + (kFirst + v) / kVecs]);
        sum[l][v] = hn::MulAdd(factor, w[v], sum[l][v]);
      }
    }
  }
  HWY_UNROLL(8)
  for (size_t l = 0; l < kAbreast; ++l) {
    HWY_UNROLL(16)
    for (size_t v = 0; v < kCount; ++v) hn::StoreU(sum[l][v], df, y[l] + at + v * kLanes);
  }
}

// One group, in as many steps as registers ask for.
template <Codes kCodes, size_t kAbreast, size_t kFirst = 0>
HWY_INLINE void AddGroup(const Block<kAbreast>& block, size_t g, float* const (&y)[kAbreast]) {
  constexpr size_t kCount = std::min(kVecs, kStepVecs<kAbreast>);
  AddVectors<kCodes, kAbreast, kFirst, kCount>(block, g, y);
  if constexpr (kFirst + kCount < kVecs) {
    AddGroup<kCodes, kAbreast, kFirst + kCount>(block, g, y);
  }
}

// One block of up to kBlockGroups groups of kAbreast lanes.
template <Codes kCodes, size_t kAbreast>
HWY_NOINLINE void AddBlock(const Batch& batch, const float* const* coefficients, size_t group,
                           size_t groups, float* const* y) {
  constexpr size_t kBytes = GroupBytes(kCodes);
  constexpr size_t kStep = std::max<size_t>(kStepVecs<kAbreast> / kVecs, 1);  // groups
  Block<kAbreast> block;
  Prepare<kCodes>(batch, coefficients, group, groups, block);
  float* out[kAbreast];
  for (size_t l = 0; l < kAbreast; ++l) out[l] = y[l] + group * kGroup;
  size_t g = 0;
  for (; g + kStep <= groups; g += kStep) {
    if (g * kBytes % kLine == 0) PrefetchAhead(block, g * kBytes, kStep * kBytes);
    if constexpr (kStep > 1) {
      AddVectors<kCodes, kAbreast, 0, kStep * kVecs>(block, g, out);
    } else {
      AddGroup<kCodes, kAbreast>(block, g, out);
    }
  }
  for (; g < groups; ++g) AddGroup<kCodes, kAbreast>(block, g, out);
}

// All columns, groups [begin, end).
template <Codes kCodes>
void AddGroupRange(const ColumnSum& sum, size_t begin, size_t end, float* const* y) {
  const size_t tile_groups = sum.TileGroups();
  for (size_t tile = begin; tile < end; tile += tile_groups) {
    ForBlocks(sum, tile, std::min(end, tile + tile_groups), end,
              [&]<size_t kAbreast>(const Batch& batch, size_t l, size_t group, size_t groups) {
                AddBlock<kCodes, kAbreast>(batch, sum.coefficients + l, group, groups, y + l);
              });
  }
}

// The last elements of a float column whose length is not a multiple of a group.
inline void AddTail(UnitEncoding encoding, const ColumnSum& sum, size_t begin, size_t end,
                    float* const* y) {
  for (size_t k = 0; k < sum.count; ++k) {
    for (size_t j = begin; j < end; ++j) {
      const float w = encoding == UnitEncoding::kF32
                          ? reinterpret_cast<const float*>(sum.columns[k])[j]
                          : HalfToFloat(reinterpret_cast<const uint16_t*>(sum.columns[k])[j]);
      for (size_t l = 0; l < sum.lanes; ++l) {
        y[l][j] = std::fma(sum.coefficients[l][k], w, y[l][j]);
      }
    }
  }
}

// Spread: how nibbles are added in chunks, SpreadF32 or SpreadBf16.
template <class Spread>
void AddColumnsLanes(UnitEncoding encoding, const uint8_t* const* columns,
                     const float* const* coefficients, size_t count, size_t elements, size_t begin,
                     size_t end, float* const* y, size_t lanes) {
  ColumnSum sum = {.columns = columns,
                   .count = count,
                   .scale_bytes = ColumnScaleBytes(encoding, elements),
                   .bf16 = Spread::kBf16 && encoding == UnitEncoding::kQ4};
  for (size_t pass = 0; pass < lanes; pass += kMostLanes) {
    sum.coefficients = coefficients + pass;
    sum.lanes = std::min(kMostLanes, lanes - pass);
    float* const* out = y + pass;
    size_t first = begin / kGroup;
    const size_t last = end / kGroup;
    switch (encoding) {
      case UnitEncoding::kF32:
        AddGroupRange<Codes::kF32>(sum, first, last, out);
        break;
      case UnitEncoding::kF16:
        AddGroupRange<Codes::kF16>(sum, first, last, out);
        break;
      case UnitEncoding::kQ8:
        AddGroupRange<Codes::kInt8>(sum, first, last, out);
        break;
      case UnitEncoding::kQ4:
        if (count >= kSpreadCount) {
          const size_t whole = (last - first) / kChunkGroups * kChunkGroups;
          AddSpreadRange<Spread>(sum, first, first + whole, out);
          first += whole;
        }
        AddGroupRange<Codes::kNibbles>(sum, first, last, out);
        break;
    }
    AddTail(encoding, sum, std::max(begin, last * kGroup), end, out);
  }
}

template <class Spread>
void AddColumns(UnitEncoding encoding, const uint8_t* const* columns, const float* coefficients,
                size_t count, size_t elements, size_t begin, size_t end, float* y) {
  AddColumnsLanes<Spread>(encoding, columns, &coefficients, count, elements, begin, end, &y, 1);
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_COLUMNS_INL_H_
