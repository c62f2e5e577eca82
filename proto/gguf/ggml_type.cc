#include "proto/gguf/ggml_type.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/gguf/ggml_groups.h"

namespace tidegate {
namespace {

struct TypeRow {
  const char* name = nullptr;  // null: withdrawn or never given
  GgmlBlock block = {};
  bool readable = false;
};

// By number. Names and block sizes from ggml's table of types.
constexpr TypeRow kTypes[] = {
    {"F32", {1, 4}, true},
    {"F16", {1, 2}, true},
    {"Q4_0", {32, 18}, true},
    {"Q4_1", {32, 20}, true},
    {},
    {},
    {"Q5_0", {32, 22}, true},
    {"Q5_1", {32, 24}, true},
    {"Q8_0", {32, 34}, true},
    {"Q8_1", {32, 36}, false},
    {"Q2_K", {256, 84}, true},
    {"Q3_K", {256, 110}, true},
    {"Q4_K", {256, 144}, true},
    {"Q5_K", {256, 176}, true},
    {"Q6_K", {256, 210}, true},
    {"Q8_K", {256, 292}, true},
    {"IQ2_XXS", {256, 66}, false},
    {"IQ2_XS", {256, 74}, false},
    {"IQ3_XXS", {256, 98}, false},
    {"IQ1_S", {256, 50}, false},
    {"IQ4_NL", {32, 18}, true},
    {"IQ3_S", {256, 110}, false},
    {"IQ2_S", {256, 82}, false},
    {"IQ4_XS", {256, 136}, true},
    {"I8", {1, 1}, false},
    {"I16", {1, 2}, false},
    {"I32", {1, 4}, false},
    {"I64", {1, 8}, false},
    {"F64", {1, 8}, false},
    {"IQ1_M", {256, 56}, false},
    {"BF16", {1, 2}, true},
    {"Q4_0_4_4"},
    {"Q4_0_4_8"},
    {"Q4_0_8_8"},
    {"TQ1_0", {256, 54}, false},
    {"TQ2_0", {256, 66}, false},
    {"IQ4_NL_4_4"},
    {"IQ4_NL_4_8"},
    {"IQ4_NL_8_8"},
    {"MXFP4", {32, 17}, false},
};

uint16_t LoadU16(const uint8_t* at) {
  uint16_t value;
  std::memcpy(&value, at, sizeof(value));
  return value;
}

}  // namespace

std::string GgmlTypeName(uint32_t type) {
  const char* name = type < std::size(kTypes) ? kTypes[type].name : nullptr;
  return name != nullptr ? name : absl::StrCat("type ", type);
}

GgmlBlock GgmlBlockOf(uint32_t type) {
  return type < std::size(kTypes) ? kTypes[type].block : GgmlBlock{};
}

absl::StatusOr<GgmlType> ToGgmlType(uint32_t type) {
  if (type < std::size(kTypes) && kTypes[type].readable) return static_cast<GgmlType>(type);
  std::string readable;
  for (const TypeRow& row : kTypes) {
    if (row.readable) absl::StrAppend(&readable, readable.empty() ? "" : ", ", row.name);
  }
  const std::string name = GgmlTypeName(type);
  return absl::InvalidArgumentError(
      absl::StrCat(absl::StartsWith(name, "type ") ? "tensor " : "tensor type ", name,
                   " is not supported; use a file of the same model in one of ", readable));
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
    default:
      break;
  }
  const size_t block = GgmlBlockElements(type);
  GgmlGroups groups;
  for (size_t begin = 0; begin < elements; begin += kGgmlSuperblock) {
    const size_t count = std::min(kGgmlSuperblock, elements - begin);
    UnpackGgmlGroups(type, in + begin / block * GgmlBlockBytes(type), count, groups);
    for (size_t i = 0; i < count; ++i) {
      const size_t group = i / kGgmlGroup;
      out[begin + i] =
          groups.scales[group] * static_cast<float>(groups.codes[i]) + groups.offsets[group];
    }
  }
}

}  // namespace tidegate
