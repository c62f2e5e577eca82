// Decoding of 32 weights into float vectors, compiled once per instruction set (kernels_simd.cc).
// The codes come out as floats exactly; scales are the caller's business.
//
// clang-format off: the guard flips with every inclusion, which is how Highway compiles a header
// for several targets.
#if defined(TIDEGATE_KERNELS_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TIDEGATE_KERNELS_DECODE_INL_H_
#undef TIDEGATE_KERNELS_DECODE_INL_H_
#else
#define TIDEGATE_KERNELS_DECODE_INL_H_
#endif
// clang-format on

#include <cstdint>
#include <cstring>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// One vector of floats. Vectors have a fixed size here (SVE is not compiled), so that arrays of
// them can live in registers.
using FloatTag = hn::ScalableTag<float>;
using IntTag = hn::RebindToSigned<FloatTag>;
using UintTag = hn::RebindToUnsigned<FloatTag>;
using FloatVec = hn::Vec<FloatTag>;

constexpr size_t kLanes = HWY_LANES(float);
constexpr size_t kGroup = 32;              // weights that share a scale
constexpr size_t kVecs = kGroup / kLanes;  // vectors per group: 2 (AVX-512), 4 (AVX2), 8 (NEON)

// How 32 weights lie in memory.
enum class Codes { kF32, kF16, kBF16, kInt8, kNibbles };

constexpr size_t GroupBytes(Codes codes) {
  return codes == Codes::kF32       ? 128
         : codes == Codes::kInt8    ? 32
         : codes == Codes::kNibbles ? 16
                                    : 64;
}

template <typename T>
HWY_INLINE hn::Vec<hn::Rebind<T, FloatTag>> LoadNarrow(const uint8_t* at) {
  return hn::LoadU(hn::Rebind<T, FloatTag>(), reinterpret_cast<const T*>(at));
}

// The scale in front of a GGUF block.
HWY_INLINE float HalfAt(const void* at) {
  const hn::Simd<float, 1, 0> one;
  const auto half = hn::LoadU(hn::Rebind<hwy::float16_t, decltype(one)>(),
                              static_cast<const hwy::float16_t*>(at));
  return hn::GetLane(hn::PromoteTo(one, half));
}

// (bits & mask) / 2^shift - 8 for a mask of four bits at `shift`: the bits become the end of the
// mantissa of 2^(23 - shift), where they count in ones. Exact, and needs no shift of the bits.
HWY_INLINE FloatVec NibbleValue(hn::Vec<UintTag> bits, uint32_t mask, float power) {
  const FloatTag df;
  const UintTag du;
  const auto number = hn::OrAnd(hn::BitCast(du, hn::Set(df, power)), bits, hn::Set(du, mask));
  return hn::Sub(hn::BitCast(df, number), hn::Set(df, power + 8));
}

// Vector i of the kVecs vectors of the group at `at`.
template <Codes kCodes>
HWY_INLINE FloatVec DecodeVector(const uint8_t* at, size_t i) {
  const FloatTag df;
  if constexpr (kCodes == Codes::kNibbles) {
    // Nibbles 0..15 -> -8..7. Low nibbles are elements 0..15, high nibbles 16..31.
    constexpr size_t kHalf = kVecs / 2;
    const auto bytes = hn::PromoteTo(UintTag(), LoadNarrow<uint8_t>(at + i % kHalf * kLanes));
    return i < kHalf ? NibbleValue(bytes, 0x0f, 0x1p23f) : NibbleValue(bytes, 0xf0, 0x1p19f);
  }
  const uint8_t* vec = at + i * (GroupBytes(kCodes) / kVecs);
  if constexpr (kCodes == Codes::kF32) {
    return hn::LoadU(df, reinterpret_cast<const float*>(vec));
  } else if constexpr (kCodes == Codes::kF16) {
    return hn::PromoteTo(df, LoadNarrow<hwy::float16_t>(vec));
  } else if constexpr (kCodes == Codes::kBF16) {
    const auto bits = hn::PromoteTo(UintTag(), LoadNarrow<uint16_t>(vec));
    return hn::BitCast(df, hn::ShiftLeft<16>(bits));
  } else {
    return hn::ConvertTo(df, hn::PromoteTo(IntTag(), LoadNarrow<int8_t>(vec)));
  }
}

template <Codes kCodes>
HWY_INLINE void DecodeGroup(const uint8_t* at, FloatVec (&w)[kVecs]) {
  HWY_UNROLL(8)
  for (size_t i = 0; i < kVecs; ++i) w[i] = DecodeVector<kCodes>(at, i);
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_DECODE_INL_H_
