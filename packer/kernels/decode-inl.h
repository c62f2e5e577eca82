// Rows of a source as floats (pack_kernels.h), compiled once per instruction set
// (simd_pack_kernels.cc). Pure.
//
// clang-format off
#if defined(TIDEGATE_PACK_DECODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TIDEGATE_PACK_DECODE_INL_H_
#undef TIDEGATE_PACK_DECODE_INL_H_
#else
#define TIDEGATE_PACK_DECODE_INL_H_
#endif
// clang-format on

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "packer/kernels/encode-inl.h"
#include "proto/gguf/ggml_groups.h"
#include "proto/gguf/ggml_type.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

static_assert(kGgmlGroup % kLanes == 0);

// Calls decode(i) -> FloatVec for whole vectors; what is left over at the end is done by the scalar
// decoder. `bytes`: of an element.
template <typename Decode>
HWY_INLINE void DecodeElements(GgmlType type, const uint8_t* row, size_t bytes, size_t elements,
                               float* out, const Decode& decode) {
  size_t i = 0;
  for (; i + kLanes <= elements; i += kLanes) {
    hn::StoreU(decode(row + i * bytes), FloatTag(), out + i);
  }
  if (i < elements) DecodeGgmlRow(type, row + i * bytes, elements - i, out + i);
}

HWY_INLINE FloatVec DecodeHalves(const uint8_t* at) {
  return hn::PromoteTo(FloatTag(),
                       hn::LoadU(HalfTag(), reinterpret_cast<const hwy::float16_t*>(at)));
}

HWY_INLINE FloatVec DecodeBrainFloats(const uint8_t* at) {
  const auto narrow = hn::LoadU(HalfBitsTag(), reinterpret_cast<const uint16_t*>(at));
  return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(hn::PromoteTo(WordTag(), narrow)));
}

// count <= kGgmlSuperblock elements, whole blocks.
HWY_INLINE void DecodeGroups(GgmlType type, const uint8_t* blocks, size_t count, float* out) {
  const FloatTag df;
  GgmlGroups groups;
  UnpackGgmlGroups(type, blocks, count, groups);
  for (size_t g = 0; g < count / kGgmlGroup; ++g) {
    const auto scale = hn::Set(df, groups.scales[g]);
    const auto offset = hn::Set(df, groups.offsets[g]);
    for (size_t at = g * kGgmlGroup; at < (g + 1) * kGgmlGroup; at += kLanes) {
      const auto narrow = hn::LoadU(hn::Rebind<int8_t, FloatTag>(), groups.codes + at);
      const auto code = hn::ConvertTo(df, hn::PromoteTo(IntTag(), narrow));
      hn::StoreU(hn::Add(hn::Mul(scale, code), offset), df, out + at);
    }
  }
}

void DecodeRow(GgmlType type, const void* row, size_t elements, float* out) {
  const auto* bytes = static_cast<const uint8_t*>(row);
  switch (type) {
    case GgmlType::kF32:
      std::memcpy(out, row, elements * sizeof(float));
      return;
    case GgmlType::kF16:
      DecodeElements(type, bytes, 2, elements, out, DecodeHalves);
      return;
    case GgmlType::kBF16:
      DecodeElements(type, bytes, 2, elements, out, DecodeBrainFloats);
      return;
    default:
      break;
  }
  const size_t block = GgmlBlockElements(type), block_bytes = GgmlBlockBytes(type);
  for (size_t begin = 0; begin < elements; begin += kGgmlSuperblock) {
    DecodeGroups(type, bytes + begin / block * block_bytes,
                 std::min(kGgmlSuperblock, elements - begin), out + begin);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_PACK_DECODE_INL_H_
