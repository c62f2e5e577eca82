// Tensor element types of GGUF files (ggml's numbering) and their scalar decoders: the
// specification that the fast kernels are compared with.
//
// Source: the GGUF specification and the block layouts of ggml (block_q8_0, block_q4_0):
//   Q8_0  32 elements in 34 bytes: f16 scale d, 32 x int8 q;   value = d * q
//   Q4_0  32 elements in 18 bytes: f16 scale d, 16 bytes;      value = d * (nibble - 8),
//         low nibbles are elements 0..15, high nibbles elements 16..31
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
  kQ8_0 = 8,
  kBF16 = 30,
};

// "F32", "Q4_0", ...; types that Tidegate cannot read are named too ("Q4_K"), unknown ones as
// "type 99".
std::string GgmlTypeName(uint32_t type);

// The supported type, or INVALID_ARGUMENT that names the type and those that work.
absl::StatusOr<GgmlType> ToGgmlType(uint32_t type);

// Elements per quantisation block (1 for float types) and bytes per block.
size_t GgmlBlockElements(GgmlType type);
size_t GgmlBlockBytes(GgmlType type);

// Bytes of one row of `elements`. REQUIRES: a multiple of GgmlBlockElements(type).
inline size_t GgmlRowBytes(GgmlType type, size_t elements) {
  return elements / GgmlBlockElements(type) * GgmlBlockBytes(type);
}

// Decodes one row. out [elements].
void DecodeGgmlRow(GgmlType type, const void* row, size_t elements, float* out);

// IEEE half and bfloat16 conversions, exact towards float, round-to-nearest-even from float.
float HalfToFloat(uint16_t half);
uint16_t FloatToHalf(float value);
float Bfloat16ToFloat(uint16_t bits);

}  // namespace tidegate
