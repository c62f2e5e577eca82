#include "proto/gguf/ggml_type.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace tidegate {
namespace {

uint16_t LoadU16(const uint8_t* at) {
  uint16_t value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

}  // namespace

std::string GgmlTypeName(uint32_t type) {
  static constexpr const char* kNames[] = {
      "F32",     "F16",    "Q4_0",    "Q4_1",  nullptr,  nullptr, "Q5_0",  "Q5_1",
      "Q8_0",    "Q8_1",   "Q2_K",    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K",  "Q8_K",
      "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",
      "I8",      "I16",    "I32",     "I64",   "F64",    "IQ1_M", "BF16"};
  if (type < std::size(kNames) && kNames[type] != nullptr) return kNames[type];
  return absl::StrCat("type ", type);
}

absl::StatusOr<GgmlType> ToGgmlType(uint32_t type) {
  switch (static_cast<GgmlType>(type)) {
    case GgmlType::kF32:
    case GgmlType::kF16:
    case GgmlType::kQ4_0:
    case GgmlType::kQ8_0:
    case GgmlType::kBF16:
      return static_cast<GgmlType>(type);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("tensor type ", GgmlTypeName(type),
                   " is not supported; convert the file to F32, F16, BF16, Q8_0 or Q4_0"));
}

size_t GgmlBlockElements(GgmlType type) {
  return type == GgmlType::kQ4_0 || type == GgmlType::kQ8_0 ? 32 : 1;
}

size_t GgmlBlockBytes(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
      return 4;
    case GgmlType::kF16:
    case GgmlType::kBF16:
      return 2;
    case GgmlType::kQ4_0:
      return 18;
    case GgmlType::kQ8_0:
      return 34;
  }
  CHECK(false);
  return 0;
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t mantissa = half & 0x3ff;
  if (exponent == 0) {  // Zero or subnormal: mantissa * 2^-24, exact in float.
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000) {  // Infinity or NaN (kept quiet).
    return static_cast<uint16_t>(sign | 0x7c00 | (magnitude > 0x7f800000 ? 0x200 : 0));
  }
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // Rounds to infinity.
  if (magnitude < 0x38800000) {  // Subnormal half: let the float adder round at 2^-24.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

float Bfloat16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

void DecodeGgmlRow(GgmlType type, const void* row, size_t elements, float* out) {
  const auto* in = static_cast<const uint8_t*>(row);
  switch (type) {
    case GgmlType::kF32:
      std::memcpy(out, in, elements * sizeof(float));
      return;
    case GgmlType::kF16:
      for (size_t i = 0; i < elements; ++i) out[i] = HalfToFloat(LoadU16(in + 2 * i));
      return;
    case GgmlType::kBF16:
      for (size_t i = 0; i < elements; ++i) out[i] = Bfloat16ToFloat(LoadU16(in + 2 * i));
      return;
    case GgmlType::kQ8_0:
      for (size_t i = 0; i < elements; ++i) {
        const uint8_t* block = in + i / 32 * 34;
        out[i] = HalfToFloat(LoadU16(block)) *
                 static_cast<float>(static_cast<int8_t>(block[2 + i % 32]));
      }
      return;
    case GgmlType::kQ4_0:
      for (size_t i = 0; i < elements; ++i) {
        const uint8_t* block = in + i / 32 * 18;
        const size_t j = i % 32;
        const int nibble = j < 16 ? block[2 + j] & 15 : block[2 + j - 16] >> 4;
        out[i] = HalfToFloat(LoadU16(block)) * static_cast<float>(nibble - 8);
      }
      return;
  }
}

}  // namespace tidegate
