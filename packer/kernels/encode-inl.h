// Columns of a slab, one per lane (pack_kernels.h), compiled once per instruction set
// (simd_pack_kernels.cc). Each function does what its namesake in unit_codec.cc does. Pure.
//
// clang-format off
#if defined(TIDEGATE_PACK_ENCODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TIDEGATE_PACK_ENCODE_INL_H_
#undef TIDEGATE_PACK_ENCODE_INL_H_
#else
#define TIDEGATE_PACK_ENCODE_INL_H_
#endif
// clang-format on

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "packer/kernels/pack_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using FloatTag = hn::ScalableTag<float>;
using IntTag = hn::RebindToSigned<FloatTag>;
using WordTag = hn::RebindToUnsigned<FloatTag>;
using HalfTag = hn::Rebind<hwy::float16_t, FloatTag>;
using HalfBitsTag = hn::Rebind<uint16_t, FloatTag>;
using DoubleTag = hn::Repartition<double, FloatTag>;
using FloatVec = hn::Vec<FloatTag>;
using IntVec = hn::Vec<IntTag>;
using WordVec = hn::Vec<WordTag>;
using DoubleVec = hn::Vec<DoubleTag>;

inline constexpr size_t kLanes = hn::MaxLanes(FloatTag());
static_assert(kSlabLanes % kLanes == 0);

// A slab's part of kLanes columns, [kSlabRows, kLanes]: dense, so that it stays in the first cache.
struct Lanes {
  HWY_ALIGN float at[kSlabRows * kLanes];

  HWY_INLINE FloatVec Row(size_t r) const { return hn::Load(FloatTag(), at + r * kLanes); }
};

HWY_INLINE FloatVec RoundToHalf(FloatVec v) {
  return hn::PromoteTo(FloatTag(), hn::DemoteTo(HalfTag(), v));
}

HWY_INLINE void StoreScales(FloatVec scale, uint16_t* out) {
  const HalfBitsTag d16;
  hn::StoreU(hn::BitCast(d16, hn::DemoteTo(HalfTag(), scale)), d16, out);
}

// SlabSums of kLanes columns while they are in registers.
class LaneSums {
 public:
  HWY_INLINE LaneSums(SlabSums sums, size_t column) : sums_(sums), column_(column) {
    for (size_t h = 0; h < 2; ++h) {
      difference_[h] = hn::LoadU(d_, sums.difference + column + h * kHalf);
      source_[h] = hn::LoadU(d_, sums.source + column + h * kHalf);
      stored_[h] = hn::LoadU(d_, sums.stored + column + h * kHalf);
    }
  }
  HWY_INLINE void Add(FloatVec source, FloatVec stored) {
    const hn::Half<FloatTag> dh;
    AddHalf(0, hn::PromoteTo(d_, hn::LowerHalf(dh, source)),
            hn::PromoteTo(d_, hn::LowerHalf(dh, stored)));
    AddHalf(1, hn::PromoteTo(d_, hn::UpperHalf(dh, source)),
            hn::PromoteTo(d_, hn::UpperHalf(dh, stored)));
  }
  HWY_INLINE void Store() const {
    for (size_t h = 0; h < 2; ++h) {
      hn::StoreU(difference_[h], d_, sums_.difference + column_ + h * kHalf);
      hn::StoreU(source_[h], d_, sums_.source + column_ + h * kHalf);
      hn::StoreU(stored_[h], d_, sums_.stored + column_ + h * kHalf);
    }
  }

 private:
  static constexpr size_t kHalf = kLanes / 2;

  // Squares of what was a float are exact, and may be fused; those of differences are not.
  HWY_INLINE void AddHalf(size_t h, DoubleVec source, DoubleVec stored) {
    const DoubleVec delta = hn::Sub(stored, source);
    difference_[h] = hn::Add(difference_[h], hn::Mul(delta, delta));
    source_[h] = hn::MulAdd(source, source, source_[h]);
    stored_[h] = hn::MulAdd(stored, stored, stored_[h]);
  }

  const DoubleTag d_{};
  const SlabSums sums_;
  const size_t column_;
  DoubleVec difference_[2], source_[2], stored_[2];
};

// Copies kLanes columns and finds the element of largest magnitude of each, with its sign.
HWY_INLINE FloatVec GatherLanes(const float* rows, size_t stride, Lanes& lanes) {
  const FloatTag df;
  FloatVec extreme = hn::Zero(df), largest = hn::Zero(df);
  for (size_t r = 0; r < kSlabRows; ++r) {
    const FloatVec v = hn::LoadU(df, rows + r * stride);
    hn::Store(v, df, lanes.at + r * kLanes);
    const FloatVec magnitude = hn::Abs(v);
    const auto larger = hn::Gt(magnitude, largest);
    extreme = hn::IfThenElse(larger, v, extreme);
    largest = hn::IfThenElse(larger, magnitude, largest);
  }
  return extreme;
}

// Words 4 k .. 4 k + 3 of a chunk, each with four bytes of a column, lower rows in lower bytes.
HWY_INLINE void StoreChunk(const WordVec (&words)[4], uint8_t (*chunk)[kChunkBytes], size_t c) {
  hn::StoreInterleaved4(words[0], words[1], words[2], words[3], WordTag(),
                        reinterpret_cast<uint32_t*>(chunk[c]));
}

// Within [-8, 7], by comparing bits: integer instructions have more ports to go to than those of
// floats. As signed integers, positive floats are ordered and above all negative ones; as unsigned
// integers, negative floats are ordered by magnitude and above all positive ones.
HWY_INLINE FloatVec ClampToQ4(FloatVec v) {
  const FloatTag df;
  const IntTag di;
  const WordTag dw;
  const IntVec at_most = hn::Min(hn::BitCast(di, v), hn::BitCast(di, hn::Set(df, 7.0f)));
  return hn::BitCast(df, hn::Min(hn::BitCast(dw, at_most), hn::BitCast(dw, hn::Set(df, -8.0f))));
}

HWY_INLINE FloatVec SquaredQ4Difference(FloatVec v, FloatVec scale, FloatVec inverse) {
  const FloatVec code = hn::Round(ClampToQ4(hn::Mul(v, inverse)));
  const FloatVec delta = hn::Sub(v, hn::Mul(code, scale));
  return hn::Mul(delta, delta);
}

HWY_INLINE FloatVec Q4Error(const Lanes& lanes, FloatVec scale, FloatVec inverse) {
  FloatVec sums[8];
  HWY_UNROLL(8)
  for (size_t j = 0; j < 8; ++j) {
    sums[j] = SquaredQ4Difference(lanes.Row(j), scale, inverse);
    HWY_UNROLL(4)
    for (size_t i = 8; i < kSlabRows; i += 8) {
      sums[j] = hn::Add(sums[j], SquaredQ4Difference(lanes.Row(i + j), scale, inverse));
    }
  }
  return hn::Add(hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3])),
                 hn::Add(hn::Add(sums[4], sums[5]), hn::Add(sums[6], sums[7])));
}

HWY_INLINE FloatVec Inverse(FloatVec scale) { return hn::Div(hn::Set(FloatTag(), 1.0f), scale); }

HWY_INLINE FloatVec BestQ4Scale(const Lanes& lanes, FloatVec extreme) {
  constexpr int kFirstPercent = 70, kLastPercent = 112, kStepPercent = 3;
  const FloatTag df;
  const FloatVec plain = RoundToHalf(hn::Mul(extreme, hn::Set(df, -0.125f)));
  const FloatVec plain_error = Q4Error(lanes, plain, Inverse(plain));
  FloatVec best = plain, least = plain_error;
  for (int percent = kFirstPercent; percent <= kLastPercent; percent += kStepPercent) {
    const FloatVec scale = hn::Mul(plain, hn::Set(df, 0.01f * static_cast<float>(percent)));
    const FloatVec inverse = Inverse(scale);
    // No sum of squares is less than one of them. Small scales clip the extreme, which is then
    // often too much already.
    const FloatVec clipped = SquaredQ4Difference(extreme, scale, inverse);
    if (hn::AllFalse(df, hn::Lt(clipped, least))) continue;
    const FloatVec error = Q4Error(lanes, scale, inverse);
    const auto less = hn::Lt(error, least);
    least = hn::IfThenElse(less, error, least);
    best = hn::IfThenElse(less, scale, best);
  }
  best = RoundToHalf(best);
  const FloatVec error = Q4Error(lanes, best, Inverse(best));
  const FloatVec chosen = hn::IfThenElse(hn::Lt(error, plain_error), best, plain);
  return hn::IfThenElseZero(hn::Ne(plain, hn::Zero(df)), chosen);
}

// Finds the codes of kLanes columns at their scales: the nearest within [low, high] to v / scale,
// as floats, and 0 where the scale is 0.
class Rounder {
 public:
  HWY_INLINE Rounder(FloatVec scale, float low, float high)
      : scale_(scale),
        inverse_(hn::IfThenElseZero(hn::Ne(scale, hn::Zero(FloatTag())), Inverse(scale))),
        low_(hn::Set(FloatTag(), low)),
        high_(hn::Set(FloatTag(), high)) {}

  // A product is cheaper than a quotient and gives the same code unless it lies next to a tie: the
  // two differ by less than 2^-22 of themselves, and codes are below 2^7.
  HWY_INLINE FloatVec Code(FloatVec v) const {
    const FloatTag df;
    const FloatVec product = Clamp(hn::Mul(v, inverse_));
    const FloatVec code = hn::Round(product);
    const auto near_tie = hn::Gt(hn::Abs(hn::Sub(product, code)), hn::Set(df, 0.4999f));
    if (HWY_LIKELY(hn::AllFalse(df, near_tie))) return code;
    const auto present = hn::Ne(scale_, hn::Zero(df));
    return hn::Round(Clamp(hn::IfThenElseZero(present, hn::Div(v, scale_))));
  }

 private:
  HWY_INLINE FloatVec Clamp(FloatVec v) const { return hn::Min(hn::Max(v, low_), high_); }

  const FloatVec scale_, inverse_, low_, high_;
};

// The last eight bits of an integer in a float, |v| < 2^21.
HWY_INLINE WordVec LowByte(FloatVec v) {
  const auto shifted = hn::Add(v, hn::Set(FloatTag(), 12582912.0f));  // 1.5 * 2^23
  return hn::And(hn::BitCast(WordTag(), shifted), hn::Set(WordTag(), 0xffu));
}

HWY_INLINE void EncodeQ4(const float* rows, size_t stride, size_t c, LaneSums& sums,
                         EncodedSlab& out) {
  const FloatTag df;
  Lanes lanes;
  const FloatVec scale = BestQ4Scale(lanes, GatherLanes(rows, stride, lanes));
  StoreScales(scale, out.scales + c);
  const Rounder rounder(scale, -8.0f, 7.0f);
  Lanes codes;
  for (size_t r = 0; r < kSlabRows; ++r) {
    const FloatVec v = lanes.Row(r), code = rounder.Code(v);
    sums.Add(v, hn::Mul(scale, code));
    hn::Store(code, df, codes.at + r * kLanes);
  }
  WordVec words[4];
  HWY_UNROLL(4)
  for (size_t w = 0; w < 4; ++w) {
    words[w] = hn::Zero(WordTag());
    HWY_UNROLL(4)
    for (size_t b = 0; b < 4; ++b) {  // (low + 8) + 16 * (high + 8)
      const FloatVec high = codes.Row(4 * w + b + kSlabRows / 2);
      const FloatVec low = hn::Add(codes.Row(4 * w + b), hn::Set(df, 136.0f));
      const WordVec byte = LowByte(hn::MulAdd(high, hn::Set(df, 16.0f), low));
      words[w] = hn::Or(words[w], hn::ShiftLeftSame(byte, static_cast<int>(8 * b)));
    }
  }
  StoreChunk(words, out.chunks[0], c);
}

HWY_INLINE void EncodeQ8(const float* rows, size_t stride, size_t c, LaneSums& sums,
                         EncodedSlab& out) {
  const FloatTag df;
  Lanes lanes;
  const FloatVec extreme = hn::Abs(GatherLanes(rows, stride, lanes));
  const FloatVec scale = RoundToHalf(hn::Div(extreme, hn::Set(df, 127.0f)));
  StoreScales(scale, out.scales + c);
  const Rounder rounder(scale, -127.0f, 127.0f);
  for (size_t k = 0; k < 2; ++k) {
    WordVec words[4];
    HWY_UNROLL(4)
    for (size_t w = 0; w < 4; ++w) {
      words[w] = hn::Zero(WordTag());
      HWY_UNROLL(4)
      for (size_t b = 0; b < 4; ++b) {
        const FloatVec v = lanes.Row(kChunkBytes * k + 4 * w + b), code = rounder.Code(v);
        sums.Add(v, hn::Mul(scale, code));
        words[w] = hn::Or(words[w], hn::ShiftLeftSame(LowByte(code), static_cast<int>(8 * b)));
      }
    }
    StoreChunk(words, out.chunks[k], c);
  }
}

HWY_INLINE WordVec HalfBits(FloatVec v) {
  return hn::PromoteTo(WordTag(), hn::BitCast(HalfBitsTag(), hn::DemoteTo(HalfTag(), v)));
}

HWY_INLINE void EncodeF16(const float* rows, size_t stride, size_t c, LaneSums& sums,
                          EncodedSlab& out) {
  const FloatTag df;
  for (size_t k = 0; k < SlabChunks(UnitEncoding::kF16); ++k) {
    WordVec words[4];
    for (size_t w = 0; w < 4; ++w) {
      const float* from = rows + (8 * k + 2 * w) * stride;
      const FloatVec low = hn::LoadU(df, from), high = hn::LoadU(df, from + stride);
      sums.Add(low, RoundToHalf(low));
      sums.Add(high, RoundToHalf(high));
      words[w] = hn::Or(HalfBits(low), hn::ShiftLeft<16>(HalfBits(high)));
    }
    StoreChunk(words, out.chunks[k], c);
  }
}

HWY_INLINE void EncodeF32(const float* rows, size_t stride, size_t c, LaneSums& sums,
                          EncodedSlab& out) {
  for (size_t k = 0; k < SlabChunks(UnitEncoding::kF32); ++k) {
    WordVec words[4];
    for (size_t w = 0; w < 4; ++w) {
      const FloatVec v = hn::LoadU(FloatTag(), rows + (4 * k + w) * stride);
      sums.Add(v, v);
      words[w] = hn::BitCast(WordTag(), v);
    }
    StoreChunk(words, out.chunks[k], c);
  }
}

void EncodeSlab(UnitEncoding encoding, const float* rows, size_t stride, size_t columns,
                SlabSums slab_sums, EncodedSlab& out) {
  for (size_t c = 0; c < columns; c += kLanes) {
    LaneSums sums(slab_sums, c);
    switch (encoding) {
      case UnitEncoding::kQ4:
        EncodeQ4(rows + c, stride, c, sums, out);
        break;
      case UnitEncoding::kQ8:
        EncodeQ8(rows + c, stride, c, sums, out);
        break;
      case UnitEncoding::kF16:
        EncodeF16(rows + c, stride, c, sums, out);
        break;
      case UnitEncoding::kF32:
        EncodeF32(rows + c, stride, c, sums, out);
        break;
    }
    sums.Store();
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_PACK_ENCODE_INL_H_
