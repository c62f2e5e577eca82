// Columns of a slab, one per lane (pack_kernels.h), compiled once per instruction set
// (simd_pack_kernels.cc). Each function does what its namesake in unit_codec.cc does.
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
#include "weightstore/pack/kernels/pack_kernels.h"

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

  HWY_INLINE void AddHalf(size_t h, DoubleVec source, DoubleVec stored) {
    const DoubleVec delta = hn::Sub(stored, source);
    difference_[h] = hn::Add(difference_[h], hn::Mul(delta, delta));
    source_[h] = hn::Add(source_[h], hn::Mul(source, source));
    stored_[h] = hn::Add(stored_[h], hn::Mul(stored, stored));
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

HWY_INLINE FloatVec SquaredQ4Difference(FloatVec v, FloatVec scale, FloatVec inverse) {
  const FloatTag df;
  const FloatVec clamped =
      hn::Min(hn::Max(hn::Mul(v, inverse), hn::Set(df, -8.0f)), hn::Set(df, 7.0f));
  const FloatVec delta = hn::Sub(v, hn::Mul(hn::Round(clamped), scale));
  return hn::Mul(delta, delta);
}

HWY_INLINE FloatVec Q4Error(const Lanes& lanes, FloatVec scale) {
  const FloatVec inverse = hn::Div(hn::Set(FloatTag(), 1.0f), scale);
  FloatVec sums[8];
  HWY_UNROLL(8)
  for (size_t j = 0; j < 8; ++j) {
    sums[j] = SquaredQ4Difference(lanes.Row(j), scale, inverse);
    for (size_t i = 8; i < kSlabRows; i += 8) {
      sums[j] = hn::Add(sums[j], SquaredQ4Difference(lanes.Row(i + j), scale, inverse));
    }
  }
  return hn::Add(hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3])),
                 hn::Add(hn::Add(sums[4], sums[5]), hn::Add(sums[6], sums[7])));
}

HWY_INLINE FloatVec BestQ4Scale(const Lanes& lanes, FloatVec extreme) {
  constexpr int kFirstPercent = 70, kLastPercent = 112, kStepPercent = 3;
  const FloatTag df;
  const FloatVec plain = RoundToHalf(hn::Mul(extreme, hn::Set(df, -0.125f)));
  const FloatVec plain_error = Q4Error(lanes, plain);
  FloatVec best = plain, least = plain_error;
  for (int percent = kFirstPercent; percent <= kLastPercent; percent += kStepPercent) {
    const FloatVec scale = hn::Mul(plain, hn::Set(df, 0.01f * static_cast<float>(percent)));
    const FloatVec error = Q4Error(lanes, scale);
    const auto less = hn::Lt(error, least);
    least = hn::IfThenElse(less, error, least);
    best = hn::IfThenElse(less, scale, best);
  }
  best = RoundToHalf(best);
  const FloatVec chosen = hn::IfThenElse(hn::Lt(Q4Error(lanes, best), plain_error), best, plain);
  return hn::IfThenElseZero(hn::Ne(plain, hn::Zero(df)), chosen);
}

// Nearest codes within [low, high] at a scale, 0 where it is 0.
HWY_INLINE IntVec Codes(FloatVec v, FloatVec scale, float low, float high) {
  const FloatTag df;
  const FloatVec steps = hn::IfThenElseZero(hn::Ne(scale, hn::Zero(df)), hn::Div(v, scale));
  return hn::NearestInt(hn::Min(hn::Max(steps, hn::Set(df, low)), hn::Set(df, high)));
}

HWY_INLINE void EncodeQ4(const float* rows, size_t stride, size_t c, LaneSums& sums,
                         EncodedSlab& out) {
  const FloatTag df;
  const WordTag dw;
  Lanes lanes;
  const FloatVec scale = BestQ4Scale(lanes, GatherLanes(rows, stride, lanes));
  StoreScales(scale, out.scales + c);
  WordVec nibbles[kSlabRows];
  HWY_UNROLL(32)
  for (size_t r = 0; r < kSlabRows; ++r) {
    const FloatVec v = lanes.Row(r);
    const IntVec code = Codes(v, scale, -8.0f, 7.0f);
    sums.Add(v, hn::Mul(scale, hn::ConvertTo(df, code)));
    nibbles[r] = hn::BitCast(dw, hn::Add(code, hn::Set(IntTag(), 8)));
  }
  WordVec words[4];
  HWY_UNROLL(4)
  for (size_t w = 0; w < 4; ++w) {
    words[w] = hn::Zero(dw);
    HWY_UNROLL(4)
    for (size_t b = 0; b < 4; ++b) {
      const WordVec byte =
          hn::Or(nibbles[4 * w + b], hn::ShiftLeft<4>(nibbles[4 * w + b + kSlabRows / 2]));
      words[w] = hn::Or(words[w], hn::ShiftLeftSame(byte, static_cast<int>(8 * b)));
    }
  }
  StoreChunk(words, out.chunks[0], c);
}

HWY_INLINE void EncodeQ8(const float* rows, size_t stride, size_t c, LaneSums& sums,
                         EncodedSlab& out) {
  const FloatTag df;
  const WordTag dw;
  Lanes lanes;
  const FloatVec extreme = hn::Abs(GatherLanes(rows, stride, lanes));
  const FloatVec scale = RoundToHalf(hn::Div(extreme, hn::Set(df, 127.0f)));
  StoreScales(scale, out.scales + c);
  for (size_t k = 0; k < 2; ++k) {
    WordVec words[4];
    HWY_UNROLL(4)
    for (size_t w = 0; w < 4; ++w) {
      words[w] = hn::Zero(dw);
      HWY_UNROLL(4)
      for (size_t b = 0; b < 4; ++b) {
        const FloatVec v = lanes.Row(kChunkBytes * k + 4 * w + b);
        const IntVec code = Codes(v, scale, -127.0f, 127.0f);
        sums.Add(v, hn::Mul(scale, hn::ConvertTo(df, code)));
        const WordVec byte = hn::And(hn::BitCast(dw, code), hn::Set(dw, 0xffu));
        words[w] = hn::Or(words[w], hn::ShiftLeftSame(byte, static_cast<int>(8 * b)));
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
