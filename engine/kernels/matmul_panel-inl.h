// Filling the panels of matmul_panel.h: weights and tokens become lanes. Compiled once per
// instruction set (matmul_simd.cc).
//
// clang-format off
#if defined(TIDEGATE_KERNELS_MATMUL_PANEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TIDEGATE_KERNELS_MATMUL_PANEL_INL_H_
#undef TIDEGATE_KERNELS_MATMUL_PANEL_INL_H_
#else
#define TIDEGATE_KERNELS_MATMUL_PANEL_INL_H_
#endif
// clang-format on

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "engine/kernels/decode-inl.h"
#include "engine/kernels/matmul_panel.h"
#include "engine/kernels/unpacked-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "proto/store/v1/static_rows.h"
#include "proto/store/v1/unit_codec.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

using LaneVec = hn::Vec<UintTag>;

// Outputs per panel: whole quantisation groups, and on AVX-512 what one strip covers.
constexpr size_t kPanelBlocks = kLanes == 16 ? 4 : 2;
constexpr size_t kPanelOutputs = kPanelBlocks * kPanelBlock;
constexpr size_t kPanelGroups = kPanelOutputs / kGroup;

struct Panel {
  alignas(64) uint32_t lanes[kPanelBlocks * kPanelBlockStride];
};

struct F32 {
  static constexpr size_t kDepthPerStep = 1;
};

struct Bf16 {
  static constexpr size_t kDepthPerStep = 2;
};

template <class A>
constexpr size_t Steps(size_t depth) {
  return (depth + A::kDepthPerStep - 1) / A::kDepthPerStep;
}

// Both rounded to bfloat16, `first` in the upper halves.
HWY_INLINE LaneVec PackPair(FloatVec first, FloatVec second) {
  const UintTag du;
  const auto half = hn::Set(du, 0x8000);
  const auto upper = hn::Add(hn::BitCast(du, first), half);
  const auto lower = hn::ShiftRight<16>(hn::Add(hn::BitCast(du, second), half));
  return hn::OrAnd(lower, upper, hn::Set(du, 0xffff0000));
}

// 32 weights of one group as their true values.
template <Codes kCodes>
HWY_INLINE void DecodeScaled(const uint8_t* codes, const uint8_t* scale, FloatVec (&w)[kVecs]) {
  DecodeGroup<kCodes>(codes, w);
  if constexpr (kCodes == Codes::kInt8 || kCodes == Codes::kNibbles) {
    const auto factor = hn::Set(FloatTag(), HalfAt(scale));
    HWY_UNROLL(8)
    for (size_t v = 0; v < kVecs; ++v) w[v] = hn::Mul(w[v], factor);
  }
}

// Columns: outputs are next to each other, the depth goes from column to column.

struct ColumnsTile {
  const ColumnsView* w = nullptr;
  size_t scale_bytes = 0;
  size_t first = 0;   // column
  size_t count = 0;   // columns
  size_t group = 0;   // the first of the panel
  size_t groups = 0;  // whole ones
};

template <Codes kCodes>
HWY_INLINE void DecodeColumnGroup(const ColumnsTile& tile, size_t k, size_t g,
                                  FloatVec (&w)[kVecs]) {
  const uint8_t* column = tile.w->columns[tile.first + k];
  const size_t group = tile.group + g;
  DecodeScaled<kCodes>(column + tile.scale_bytes + group * GroupBytes(kCodes), column + 2 * group,
                       w);
}

HWY_INLINE uint32_t* PanelAt(Panel& panel, size_t g, size_t v, size_t step) {
  const size_t output = g * kGroup + v * kLanes;
  return panel.lanes + output / kPanelBlock * kPanelBlockStride + step * kPanelBlock +
         output % kPanelBlock;
}

// What the same columns hold for the next panel: it is needed only after all tokens have passed
// over this one, and columns are too short for the hardware to see it coming.
template <Codes kCodes>
HWY_INLINE void PrefetchNext(const ColumnsTile& tile, size_t k) {
  const uint8_t* column = tile.w->columns[tile.first + k];
  const uint8_t* codes =
      column + tile.scale_bytes + (tile.group + kPanelGroups) * GroupBytes(kCodes);
  constexpr size_t kBytes = kPanelGroups * GroupBytes(kCodes);
  for (size_t at = 0; at < kBytes; at += 64) hwy::Prefetch(codes + at);
  if (tile.scale_bytes != 0) hwy::Prefetch(column + 2 * (tile.group + kPanelGroups));
}

template <class A, Codes kCodes>
void FillColumns(const ColumnsTile& tile, Panel& panel) {
  const UintTag du;
  for (size_t k = 0; k < tile.count; k += A::kDepthPerStep) {
    const size_t step = k / A::kDepthPerStep;
    PrefetchNext<kCodes>(tile, k);
    if constexpr (A::kDepthPerStep == 2) {
      if (k + 1 < tile.count) PrefetchNext<kCodes>(tile, k + 1);
    }
    for (size_t g = 0; g < tile.groups; ++g) {
      FloatVec w[kVecs];
      DecodeColumnGroup<kCodes>(tile, k, g, w);
      if constexpr (A::kDepthPerStep == 1) {
        for (size_t v = 0; v < kVecs; ++v) {
          hn::Store(hn::BitCast(du, w[v]), du, PanelAt(panel, g, v, step));
        }
      } else {
        FloatVec second[kVecs];
        if (k + 1 < tile.count) {
          DecodeColumnGroup<kCodes>(tile, k + 1, g, second);
        } else {
          for (size_t v = 0; v < kVecs; ++v) second[v] = hn::Zero(FloatTag());
        }
        for (size_t v = 0; v < kVecs; ++v) {
          hn::Store(PackPair(w[v], second[v]), du, PanelAt(panel, g, v, step));
        }
      }
    }
  }
}

// The outputs after the last whole group of a column of floats or halves.
template <class A, Codes kCodes>
HWY_NOINLINE void FillColumnsTail(const ColumnsTile& tile, size_t outputs, Panel& panel) {
  constexpr size_t kElementBytes = GroupBytes(kCodes) / kGroup;
  const size_t at = (tile.group + tile.groups) * GroupBytes(kCodes);
  uint8_t padded[A::kDepthPerStep][GroupBytes(kCodes)] = {};
  for (size_t k = 0; k < tile.count; k += A::kDepthPerStep) {
    FloatVec w[A::kDepthPerStep][kVecs];
    for (size_t i = 0; i < A::kDepthPerStep; ++i) {
      const bool present = k + i < tile.count;
      if (!present) std::memset(padded[i], 0, sizeof(padded[i]));
      if (present) {
        std::memcpy(padded[i], tile.w->columns[tile.first + k + i] + at, outputs * kElementBytes);
      }
      DecodeGroup<kCodes>(padded[i], w[i]);
    }
    for (size_t v = 0; v < kVecs; ++v) {
      uint32_t* to = PanelAt(panel, tile.groups, v, k / A::kDepthPerStep);
      const UintTag du;
      if constexpr (A::kDepthPerStep == 1) {
        hn::Store(hn::BitCast(du, w[0][v]), du, to);
      } else {
        hn::Store(PackPair(w[0][v], w[1][v]), du, to);
      }
    }
  }
}

// Rows: the depth is next to each other, outputs go from row to row.

// Group g of a row stored as static_rows.h says.
template <Codes kCodes>
HWY_INLINE void DecodeRowGroup(const uint8_t* row, size_t scale_bytes, size_t g,
                               FloatVec (&w)[kVecs]) {
  DecodeScaled<kCodes>(row + scale_bytes + g * GroupBytes(kCodes), row + 2 * g, w);
}

// The weights after the last whole group of a row of floats or halves, padded with zeros.
template <Codes kCodes>
HWY_NOINLINE void DecodeRowTail(const uint8_t* row, size_t g, size_t count, FloatVec (&w)[kVecs]) {
  constexpr size_t kElementBytes = GroupBytes(kCodes) / kGroup;
  uint8_t padded[GroupBytes(kCodes)] = {};
  std::memcpy(padded, row + g * GroupBytes(kCodes), count * kElementBytes);
  DecodeGroup<kCodes>(padded, w);
}

// w, 32 floats of consecutive depth -> lanes [32 / A::kDepthPerStep].
template <class A>
HWY_INLINE void StoreLanes(const FloatVec (&w)[kVecs], uint32_t* lanes) {
  const UintTag du;
  if constexpr (A::kDepthPerStep == 1) {
    for (size_t v = 0; v < kVecs; ++v) hn::Store(hn::BitCast(du, w[v]), du, lanes + v * kLanes);
  } else {
    const FloatTag df;
    for (size_t v = 0; v < kVecs; v += 2) {
      const auto even = hn::ConcatEven(df, w[v + 1], w[v]);
      const auto odd = hn::ConcatOdd(df, w[v + 1], w[v]);
      hn::Store(PackPair(even, odd), du, lanes + v / 2 * kLanes);
    }
  }
}

// rows [16][kCount] -> out [kCount][16]. Interleaving rows r, r + 4, r + 8, r + 12 and then the
// four results brings every row to its place.
template <size_t kCount>
HWY_INLINE void Transpose(const uint32_t (&rows)[kPanelBlock][kCount], uint32_t* out) {
  const UintTag du;
  alignas(64) uint32_t quads[4][kCount * 4];
  for (size_t i = 0; i < 4; ++i) {
    for (size_t at = 0; at < kCount; at += kLanes) {
      hn::StoreInterleaved4(hn::Load(du, rows[i] + at), hn::Load(du, rows[i + 4] + at),
                            hn::Load(du, rows[i + 8] + at), hn::Load(du, rows[i + 12] + at), du,
                            quads[i] + 4 * at);
    }
  }
  for (size_t at = 0; at < kCount * 4; at += kLanes) {
    hn::StoreInterleaved4(hn::Load(du, quads[0] + at), hn::Load(du, quads[1] + at),
                          hn::Load(du, quads[2] + at), hn::Load(du, quads[3] + at), du,
                          out + 4 * at);
  }
}

// One block of 16 outputs, rows [row, row + count), groups of depth [begin, end) of which the last
// may be short. Outputs beyond the rows become zeros.
template <class A, Codes kCodes>
void FillRowBlock(const MatrixView& w, size_t row, size_t count, size_t begin, size_t end,
                  uint32_t* block) {
  constexpr size_t kCount = kGroup / A::kDepthPerStep;
  alignas(64) uint32_t lanes[kPanelBlock][kCount] = {};
  const size_t scale_bytes = StaticScaleBytes(w.type, w.columns);
  for (size_t g = begin; g < end; ++g) {
    const size_t present = std::min(kGroup, w.columns - g * kGroup);
    for (size_t r = 0; r < count; ++r) {
      const auto* data = reinterpret_cast<const uint8_t*>(w.Row(row + r));
      FloatVec group[kVecs];
      if (present == kGroup) {
        DecodeRowGroup<kCodes>(data, scale_bytes, g, group);
      } else {
        DecodeRowTail<kCodes>(data, g, present, group);
      }
      StoreLanes<A>(group, lanes[r]);
    }
    Transpose(lanes, block + (g - begin) * kCount * kPanelBlock);
  }
}

// The same of a type that is unpacked block by block. REQUIRES: begin is a multiple of a
// superblock's 8 groups, and the groups fit into one stretch of a panel.
template <class A>
void FillUnpackedBlock(const MatrixView& w, size_t row, size_t count, size_t begin, size_t end,
                       uint32_t* block) {
  constexpr size_t kDepth = kPanelSteps * A::kDepthPerStep;
  alignas(64) float rows[kPanelBlock][kDepth];
  const size_t depth = (end - begin) * kGroup;
  for (size_t r = 0; r < count; ++r) {
    for (size_t at = 0; at < depth; at += kGgmlSuperblock) {
      DecodeUnpacked(w, row + r, begin * kGroup + at, std::min(kGgmlSuperblock, depth - at),
                     rows[r] + at);
    }
  }
  const MatrixView floats = {.type = GgmlType::kF32,
                             .data = reinterpret_cast<const std::byte*>(rows),
                             .rows = count,
                             .columns = depth,
                             .row_bytes = sizeof(rows[0])};
  FillRowBlock<A, Codes::kF32>(floats, 0, count, 0, end - begin, block);
}

// Tokens.

// Elements [k, k + 32 or fewer) of one token -> as many lanes as they fill, zeros behind.
template <class A>
HWY_INLINE void PackToken(const TokensView& x, size_t t, size_t k,
                          uint32_t (&lanes)[kGroup / A::kDepthPerStep]) {
  const FloatTag df;
  alignas(64) float values[kGroup];
  const float* from = x.data + t * x.stride;
  const size_t count = std::min(kGroup, x.depth - k);
  if (x.index == nullptr) {
    std::memcpy(values, from + k, count * sizeof(float));
  } else {
    for (size_t i = 0; i < count; ++i) values[i] = from[x.index[k + i]];
  }
  std::fill(values + count, values + kGroup, 0.0f);
  FloatVec group[kVecs];
  for (size_t v = 0; v < kVecs; ++v) group[v] = hn::Load(df, values + v * kLanes);
  StoreLanes<A>(group, lanes);
}

template <class A>
void PackTile(const TokensView& x, size_t first, size_t tokens, uint32_t* out) {
  constexpr size_t kCount = kGroup / A::kDepthPerStep;
  alignas(64) uint32_t lanes[kTokenTile][kCount];
  const size_t steps = Steps<A>(x.depth);
  for (size_t step = 0; step < steps; step += kCount) {
    for (size_t t = 0; t < tokens; ++t) {
      PackToken<A>(x, first + t, step * A::kDepthPerStep, lanes[t]);
    }
    const size_t count = std::min(kCount, steps - step);
    for (size_t i = 0; i < count; ++i) {
      for (size_t t = 0; t < tokens; ++t) *out++ = lanes[t][i];
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_MATMUL_PANEL_INL_H_
