// How one weight column is stored inside a unit. Encoders are used by the packer; the decoder is
// the scalar specification that the kernels are compared with.
//
// A column of n elements, every part 16-byte aligned relative to the column's start:
//   kF32   n x float
//   kF16   n x half
//   kQ8    ceil(n/32) x half scale, padded to 16 bytes; n x int8.        value = scale * q
//   kQ4    ceil(n/32) x half scale, padded to 16 bytes; n/2 bytes.       value = scale * (code - 8)
//          Per group of 32: 16 bytes, whose low halves are the codes of elements 0..15, the high
//          ones those of 16..31.
// Scales come first and together, so that a kernel can turn a tile's scales into floats at once.
// Groups of 32 run along the column: n must be a multiple of 32 for kQ8 and kQ4. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace tidegate {

enum class UnitEncoding : uint32_t { kF32 = 1, kF16 = 2, kQ8 = 3, kQ4 = 4 };

inline constexpr size_t kQuantGroup = 32;
inline constexpr size_t kColumnAlign = 16;  // bytes

// "f32", "f16", "q8", "q4" and back. INVALID_ARGUMENT lists the names.
std::string_view UnitEncodingName(UnitEncoding encoding);
absl::StatusOr<UnitEncoding> ParseUnitEncoding(std::string_view name);
bool IsUnitEncoding(uint32_t value);

// True for encodings with groups: the column length must be a multiple of kQuantGroup.
constexpr bool IsGrouped(UnitEncoding encoding) {
  return encoding == UnitEncoding::kQ8 || encoding == UnitEncoding::kQ4;
}

// Bytes of the scales part (padded) and of a whole column (padded to kColumnAlign).
size_t ColumnScaleBytes(UnitEncoding encoding, size_t elements);
size_t ColumnBytes(UnitEncoding encoding, size_t elements);

// values [elements] -> out [ColumnBytes]; padding is zeroed. Codes are the nearest ones. The scale
// of a kQ8 group is its largest magnitude / 127; that of a kQ4 group is searched for the smallest
// sum of squared differences, never larger than with the extreme element as code -8.
// REQUIRES: elements % kQuantGroup == 0 when IsGrouped(encoding).
void EncodeColumn(UnitEncoding encoding, const float* values, size_t elements, uint8_t* out);

// column [ColumnBytes] -> out [elements].
void DecodeColumn(UnitEncoding encoding, const uint8_t* column, size_t elements, float* out);

}  // namespace tidegate
