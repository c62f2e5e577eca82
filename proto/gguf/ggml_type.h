// Tensor element types of GGUF files (ggml's numbering) and their scalar decoders: the
// specification that the fast kernels are compared with. How the bits of quantised types lie is in
// ggml_groups.h. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace tidegate {

enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kIQ4_NL = 20,
  kIQ4_XS = 23,
  kBF16 = 30,
};

// "F32", "Q4_0", ...; types that Tidegate cannot read are named too ("IQ2_XS"), unknown ones as
// "type 99".
std::string GgmlTypeName(uint32_t type);

// The supported type, or INVALID_ARGUMENT that names the type and those that work.
absl::StatusOr<GgmlType> ToGgmlType(uint32_t type);

// Elements and bytes of one quantisation block (one element for float types), also of types that
// Tidegate cannot read; zeros for unknown ones.
struct GgmlBlock {
  uint32_t elements = 0;
  uint32_t bytes = 0;
};
GgmlBlock GgmlBlockOf(uint32_t type);

inline size_t GgmlBlockElements(GgmlType type) {
  return GgmlBlockOf(static_cast<uint32_t>(type)).elements;
}
inline size_t GgmlBlockBytes(GgmlType type) {
  return GgmlBlockOf(static_cast<uint32_t>(type)).bytes;
}

// Bytes of one row of `elements`. REQUIRES: a multiple of GgmlBlockElements(type).
inline size_t GgmlRowBytes(GgmlType type, size_t elements) {
  return elements / GgmlBlockElements(type) * GgmlBlockBytes(type);
}

// Decodes one row. out [elements]. REQUIRES: elements is a multiple of GgmlBlockElements(type).
void DecodeGgmlRow(GgmlType type, const void* row, size_t elements, float* out);

// IEEE half and bfloat16 conversions, exact towards float, round-to-nearest-even from float.
float HalfToFloat(uint16_t half);
uint16_t FloatToHalf(float value);
float Bfloat16ToFloat(uint16_t bits);

}  // namespace tidegate
