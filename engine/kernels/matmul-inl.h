// The products of matmul.h over panels of weights, compiled once per instruction set
// (matmul_simd.cc). Order of the work, outermost first: a panel of outputs; a stretch of the depth,
// decoded into the panel; a tile of tokens; a strip of outputs, whose sums stay in registers.
//
// clang-format off
#if defined(TIDEGATE_KERNELS_MATMUL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TIDEGATE_KERNELS_MATMUL_INL_H_
#undef TIDEGATE_KERNELS_MATMUL_INL_H_
#else
#define TIDEGATE_KERNELS_MATMUL_INL_H_
#endif
// clang-format on

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "engine/kernels/matmul_panel-inl.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

// Vectors of outputs per strip: with 6 tokens, 24 sums in 32 registers, or 12 in AVX2's 16.
constexpr size_t kStripVecs = HWY_TARGET == HWY_AVX2 ? 2 : 4;
constexpr size_t kStrip = kStripVecs * kLanes;

static_assert(kPanelOutputs % kStrip == 0 && kPanelBlock % kLanes == 0);

HWY_INLINE const float* StripWeights(const uint32_t* panel, size_t v, size_t step) {
  const size_t output = v * kLanes;
  return reinterpret_cast<const float*>(panel) + output / kPanelBlock * kPanelBlockStride +
         step * kPanelBlock + output % kPanelBlock;
}

template <size_t kTokens>
void MultiplyStripF32(const uint32_t* panel, const uint32_t* x, size_t steps, float* y,
                      size_t y_stride, const float* next) {
  const FloatTag df;
  const auto* tokens = reinterpret_cast<const float*>(x);
  FloatVec sum[kTokens][kStripVecs];
  HWY_UNROLL(6)
  for (size_t t = 0; t < kTokens; ++t) {
    HWY_UNROLL(4)
    for (size_t v = 0; v < kStripVecs; ++v) {
      sum[t][v] = hn::LoadU(df, y + t * y_stride + v * kLanes);
      hwy::Prefetch(next + t * y_stride + v * kLanes);
    }
  }
  for (size_t step = 0; step < steps; ++step) {
    FloatVec w[kStripVecs];
    HWY_UNROLL(4)
    for (size_t v = 0; v < kStripVecs; ++v) w[v] = hn::Load(df, StripWeights(panel, v, step));
    HWY_UNROLL(6)
    for (size_t t = 0; t < kTokens; ++t) {
      const auto one = hn::Set(df, tokens[step * kTokens + t]);
      HWY_UNROLL(4)
      for (size_t v = 0; v < kStripVecs; ++v) sum[t][v] = hn::MulAdd(one, w[v], sum[t][v]);
    }
  }
  HWY_UNROLL(6)
  for (size_t t = 0; t < kTokens; ++t) {
    HWY_UNROLL(4)
    for (size_t v = 0; v < kStripVecs; ++v) {
      hn::StoreU(sum[t][v], df, y + t * y_stride + v * kLanes);
    }
  }
}

template <class A>
HWY_INLINE const MultiplyStrip* Strips() {
  if constexpr (A::kDepthPerStep == 2) {
    return Bf16Strips();
  } else {
    static constexpr MultiplyStrip kStrips[kTokenTile] = {MultiplyStripF32<1>, MultiplyStripF32<2>,
                                                          MultiplyStripF32<3>, MultiplyStripF32<4>,
                                                          MultiplyStripF32<5>, MultiplyStripF32<6>};
    return kStrips;
  }
}

// Where the products of one panel go.
struct Outputs {
  const uint32_t* packed = nullptr;
  size_t tokens = 0;
  size_t steps = 0;    // of the whole depth
  float* y = nullptr;  // of the panel's first output
  size_t y_stride = 0;
  size_t count = 0;  // outputs of the panel that exist
};

// A strip of which only the first `count` outputs exist.
HWY_NOINLINE void MultiplyPartialStrip(MultiplyStrip strip, const uint32_t* panel,
                                       const uint32_t* x, size_t steps, size_t tokens, size_t count,
                                       float* y, size_t y_stride) {
  alignas(64) float sums[kTokenTile * kStrip] = {};
  for (size_t t = 0; t < tokens; ++t) {
    std::memcpy(sums + t * kStrip, y + t * y_stride, count * sizeof(float));
  }
  strip(panel, x, steps, sums, kStrip, sums);
  for (size_t t = 0; t < tokens; ++t) {
    std::memcpy(y + t * y_stride, sums + t * kStrip, count * sizeof(float));
  }
}

// y += panel . x for the steps [first, first + steps) that the panel holds.
template <class A>
void MultiplyPanel(const Panel& panel, size_t first, size_t steps, const Outputs& to) {
  const MultiplyStrip* strips = Strips<A>();
  for (size_t begin = 0; begin < to.count; begin += kStrip) {
    const uint32_t* lanes = panel.lanes + begin / kPanelBlock * kPanelBlockStride;
    for (size_t t = 0; t < to.tokens; t += kTokenTile) {
      const size_t tokens = std::min(kTokenTile, to.tokens - t);
      const uint32_t* x = to.packed + t * to.steps + first * tokens;
      float* y = to.y + t * to.y_stride + begin;
      if (to.count - begin < kStrip) {
        MultiplyPartialStrip(strips[tokens - 1], lanes, x, steps, tokens, to.count - begin, y,
                             to.y_stride);
        continue;
      }
      const bool more = t + kTokenTile < to.tokens;
      const float* next = more ? y + kTokenTile * to.y_stride : to.y + begin + kStrip;
      strips[tokens - 1](lanes, x, steps, y, to.y_stride, next);
    }
  }
}

template <class A, Codes kCodes>
void AddColumnsOf(const ColumnsView& w, size_t begin, size_t end, const void* packed, size_t tokens,
                  float* y, size_t y_stride) {
  Panel panel;
  const size_t scale_bytes = ColumnScaleBytes(w.encoding, w.elements);
  constexpr size_t kDepth = kPanelSteps * A::kDepthPerStep;
  for (size_t j = begin; j < end; j += kPanelOutputs) {
    const size_t count = std::min(kPanelOutputs, end - j);
    const Outputs to = {
        static_cast<const uint32_t*>(packed), tokens, Steps<A>(w.count), y + j, y_stride, count};
    if (count < kPanelOutputs) std::memset(panel.lanes, 0, sizeof(panel.lanes));
    for (size_t k = 0; k < w.count; k += kDepth) {
      const ColumnsTile tile = {.w = &w,
                                .scale_bytes = scale_bytes,
                                .first = k,
                                .count = std::min(kDepth, w.count - k),
                                .group = j / kGroup,
                                .groups = count / kGroup};
      FillColumns<A, kCodes>(tile, panel);
      if constexpr (kCodes == Codes::kF32 || kCodes == Codes::kF16) {
        if (count % kGroup != 0) FillColumnsTail<A, kCodes>(tile, count % kGroup, panel);
      }
      MultiplyPanel<A>(panel, k / A::kDepthPerStep, Steps<A>(tile.count), to);
    }
  }
}

template <class A>
void MatmulAddColumns(const ColumnsView& w, size_t begin, size_t end, const void* packed,
                      size_t tokens, float* y, size_t y_stride) {
  const auto run = [&](auto add) { add(w, begin, end, packed, tokens, y, y_stride); };
  switch (w.encoding) {
    case UnitEncoding::kF32:
      return run(AddColumnsOf<A, Codes::kF32>);
    case UnitEncoding::kF16:
      return run(AddColumnsOf<A, Codes::kF16>);
    case UnitEncoding::kQ8:
      return run(AddColumnsOf<A, Codes::kInt8>);
    case UnitEncoding::kQ4:
      return run(AddColumnsOf<A, Codes::kNibbles>);
  }
}

// One block of a panel from rows, see FillRowBlock.
using FillBlock = void (*)(const MatrixView& w, size_t row, size_t count, size_t begin, size_t end,
                           uint32_t* block);

template <class A, FillBlock kFill>
void MultiplyRowsOf(const MatrixView& w, size_t begin, size_t end, const void* packed,
                    size_t tokens, float* y, size_t y_stride) {
  Panel panel;
  constexpr size_t kStepsPerGroup = kGroup / A::kDepthPerStep;
  constexpr size_t kGroups = kPanelSteps / kStepsPerGroup;
  const size_t groups = (w.columns + kGroup - 1) / kGroup;
  const size_t steps = Steps<A>(w.columns);
  for (size_t r = begin; r < end; r += kPanelOutputs) {
    const size_t count = std::min(kPanelOutputs, end - r);
    const Outputs to = {
        static_cast<const uint32_t*>(packed), tokens, steps, y + r, y_stride, count};
    for (size_t t = 0; t < tokens; ++t) std::fill_n(to.y + t * y_stride, count, 0.0f);
    for (size_t g = 0; g < groups; g += kGroups) {
      const size_t last = std::min(groups, g + kGroups);
      for (size_t block = 0; block < kPanelBlocks; ++block) {
        const size_t row = std::min(end, r + block * kPanelBlock);
        kFill(w, row, std::min(kPanelBlock, end - row), g, last,
              panel.lanes + block * kPanelBlockStride);
      }
      const size_t first = g * kStepsPerGroup;
      MultiplyPanel<A>(panel, first, std::min(kPanelSteps, steps - first), to);
    }
  }
}

template <class A>
void MatmulMultiplyRows(const MatrixView& w, size_t begin, size_t end, const void* packed,
                        size_t tokens, float* y, size_t y_stride) {
  const auto run = [&](auto multiply) { multiply(w, begin, end, packed, tokens, y, y_stride); };
  switch (w.type) {
    case GgmlType::kF32:
      return run(MultiplyRowsOf<A, FillRowBlock<A, Codes::kF32>>);
    case GgmlType::kF16:
      return run(MultiplyRowsOf<A, FillRowBlock<A, Codes::kF16>>);
    case GgmlType::kBF16:
      return run(MultiplyRowsOf<A, FillRowBlock<A, Codes::kBF16>>);
    case GgmlType::kQ8_0:
      return run(MultiplyRowsOf<A, FillRowBlock<A, Codes::kInt8>>);
    case GgmlType::kQ4_0:
      return run(MultiplyRowsOf<A, FillRowBlock<A, Codes::kNibbles>>);
    default:
      return run(MultiplyRowsOf<A, FillUnpackedBlock<A>>);
  }
}

template <class A>
void MatmulPack(const TokensView& x, size_t begin, size_t end, void* packed) {
  for (size_t t = begin; t < end; t += kTokenTile) {
    PackTile<A>(x, t, std::min(kTokenTile, end - t),
                static_cast<uint32_t*>(packed) + t * Steps<A>(x.depth));
  }
}

template <class A>
size_t MatmulPackedBytes(size_t tokens, size_t depth) {
  return tokens * Steps<A>(depth) * sizeof(uint32_t);
}

template <class A>
const MatmulKernels& MatmulTable() {
  static const std::string name =
      std::string(hwy::TargetName(HWY_TARGET)) + (A::kDepthPerStep == 2 ? "_bf16" : "_f32");
  static const MatmulKernels table = {.name = name,
                                      .packed_bytes = MatmulPackedBytes<A>,
                                      .pack = MatmulPack<A>,
                                      .multiply_rows = MatmulMultiplyRows<A>,
                                      .add_columns = MatmulAddColumns<A>};
  return table;
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_MATMUL_INL_H_
