// Rows of the types that are unpacked block by block (ggml_groups.h) as floats, compiled once per
// instruction set.
//
// clang-format off
#if defined(TIDEGATE_KERNELS_UNPACKED_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef TIDEGATE_KERNELS_UNPACKED_INL_H_
#undef TIDEGATE_KERNELS_UNPACKED_INL_H_
#else
#define TIDEGATE_KERNELS_UNPACKED_INL_H_
#endif
// clang-format on

#include <cstddef>
#include <cstdint>

#include "engine/kernels/decode-inl.h"
#include "engine/kernels/kernels.h"
#include "hwy/highway.h"
#include "proto/gguf/ggml_groups.h"

HWY_BEFORE_NAMESPACE();
namespace tidegate {
namespace HWY_NAMESPACE {

static_assert(kGgmlGroup % kLanes == 0 && kGgmlSuperblock % kGroup == 0);

// Columns [begin, begin + count) of row r -> out, aligned to 64 bytes. REQUIRES: begin is a
// multiple of kGgmlSuperblock, count at most that and whole blocks.
HWY_INLINE void DecodeUnpacked(const MatrixView& w, size_t r, size_t begin, size_t count,
                               float* HWY_RESTRICT out) {
  const FloatTag df;
  GgmlGroups groups;
  const auto* row = reinterpret_cast<const uint8_t*>(w.Row(r));
  UnpackGgmlGroups(w.type, row + GgmlRowBytes(w.type, begin), count, groups);
  for (size_t g = 0; g < count / kGgmlGroup; ++g) {
    const auto scale = hn::Set(df, groups.scales[g]);
    const auto offset = hn::Set(df, groups.offsets[g]);
    for (size_t at = g * kGgmlGroup; at < (g + 1) * kGgmlGroup; at += kLanes) {
      const auto narrow = hn::LoadU(hn::Rebind<int8_t, FloatTag>(), groups.codes + at);
      const auto code = hn::ConvertTo(df, hn::PromoteTo(IntTag(), narrow));
      hn::Store(hn::MulAdd(scale, code, offset), df, out + at);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace tidegate
HWY_AFTER_NAMESPACE();

#endif  // TIDEGATE_KERNELS_UNPACKED_INL_H_
