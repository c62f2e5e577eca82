#include "proto/store/v1/unit_codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/units.h"
#include "proto/gguf/ggml_type.h"

namespace tidegate {
namespace {

void StoreHalf(uint8_t* at, float value) {
  const uint16_t half = FloatToHalf(value);
  std::memcpy(at, &half, sizeof(half));
}

float LoadHalf(const uint8_t* at) {
  uint16_t half;
  std::memcpy(&half, at, sizeof(half));
  return HalfToFloat(half);
}

// Largest absolute value, and the signed element that has it.
float SignedExtreme(const float* group) {
  float extreme = 0;
  for (size_t i = 0; i < kQuantGroup; ++i) {
    if (std::fabs(group[i]) > std::fabs(extreme)) extreme = group[i];
  }
  return extreme;
}

int RoundClamp(float value, int low, int high) {
  return std::clamp(static_cast<int>(std::lrintf(value)), low, high);
}

void EncodeQ8Group(const float* group, uint8_t* scale_out, uint8_t* codes_out) {
  StoreHalf(scale_out, std::fabs(SignedExtreme(group)) / 127.0f);
  const float scale = LoadHalf(scale_out);  // Codes are chosen for the scale as it is stored.
  for (size_t i = 0; i < kQuantGroup; ++i) {
    const int code = scale > 0 ? RoundClamp(group[i] / scale, -127, 127) : 0;
    codes_out[i] = static_cast<uint8_t>(static_cast<int8_t>(code));
  }
}

// Nearest integer, ties to even, for |value| < 2^22: a form that compilers vectorise.
float RoundNearest(float value) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
  return (value + kShift) - kShift;
}

// Sum of squared differences of a group from its nearest 4-bit codes at a scale. Eight sums, so
// that a compiler may use vectors; their order is the same on every machine.
float Q4Error(const float* group, float scale) {
  constexpr size_t kSums = 8;
  const float inverse = 1.0f / scale;
  float sums[kSums] = {};
  for (size_t i = 0; i < kQuantGroup; i += kSums) {
    for (size_t j = 0; j < kSums; ++j) {
      const float value = group[i + j];
      const float code = RoundNearest(std::min(std::max(value * inverse, -8.0f), 7.0f));
      const float delta = value - code * scale;
      sums[j] += delta * delta;
    }
  }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// The scale, as it is stored, with the smallest squared error among those tried. The plain choice
// lets the extreme element be -8, the one code without a positive twin (as ggml's Q4_0). A smaller
// scale clips that element and serves the others better, a larger one happens to hit them. The
// other sign, with the extreme at 7, was never better by more than a hair (docs/evaluation.md).
float BestQ4Scale(const float* group) {
  constexpr int kFirstPercent = 70, kLastPercent = 112, kStepPercent = 3;
  const auto as_stored = [](float scale) { return HalfToFloat(FloatToHalf(scale)); };
  const float plain = as_stored(SignedExtreme(group) / -8.0f);
  if (plain == 0) return 0;
  float best = plain, least = Q4Error(group, plain);
  for (int percent = kFirstPercent; percent <= kLastPercent; percent += kStepPercent) {
    const float scale = plain * (0.01f * static_cast<float>(percent));
    const float error = Q4Error(group, scale);
    if (error < least) {  // Never where it is not a number.
      least = error;
      best = scale;
    }
  }
  // Rounding to half may spoil a close call.
  best = as_stored(best);
  return Q4Error(group, best) < Q4Error(group, plain) ? best : plain;
}

void EncodeQ4Group(const float* group, uint8_t* scale_out, uint8_t* codes_out) {
  const float scale = BestQ4Scale(group);
  StoreHalf(scale_out, scale);
  const auto code = [&](size_t i) {
    return scale != 0 ? RoundClamp(group[i] / scale, -8, 7) + 8 : 8;
  };
  for (size_t i = 0; i < kQuantGroup / 2; ++i) {
    codes_out[i] = static_cast<uint8_t>(code(i) | code(i + kQuantGroup / 2) << 4);
  }
}

}  // namespace

std::string_view UnitEncodingName(UnitEncoding encoding) {
  switch (encoding) {
    case UnitEncoding::kF32:
      return "f32";
    case UnitEncoding::kF16:
      return "f16";
    case UnitEncoding::kQ8:
      return "q8";
    case UnitEncoding::kQ4:
      return "q4";
  }
  return "?";
}

bool IsUnitEncoding(uint32_t value) { return value >= 1 && value <= 4; }

absl::StatusOr<UnitEncoding> ParseUnitEncoding(std::string_view name) {
  for (uint32_t value = 1; IsUnitEncoding(value); ++value) {
    const auto encoding = static_cast<UnitEncoding>(value);
    if (UnitEncodingName(encoding) == name) return encoding;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown unit encoding '", std::string(name), "'; use f32, f16, q8 or q4"));
}

size_t ColumnScaleBytes(UnitEncoding encoding, size_t elements) {
  return IsGrouped(encoding) ? RoundUp((elements / kQuantGroup) * 2, kColumnAlign) : 0;
}

size_t ColumnBytes(UnitEncoding encoding, size_t elements) {
  size_t codes = 0;
  switch (encoding) {
    case UnitEncoding::kF32:
      codes = elements * 4;
      break;
    case UnitEncoding::kF16:
      codes = elements * 2;
      break;
    case UnitEncoding::kQ8:
      codes = elements;
      break;
    case UnitEncoding::kQ4:
      codes = elements / 2;
      break;
  }
  return ColumnScaleBytes(encoding, elements) + RoundUp(codes, kColumnAlign);
}

void EncodeColumn(UnitEncoding encoding, const float* values, size_t elements, uint8_t* out) {
  CHECK(!IsGrouped(encoding) || elements % kQuantGroup == 0);
  std::memset(out, 0, ColumnBytes(encoding, elements));
  uint8_t* codes = out + ColumnScaleBytes(encoding, elements);
  switch (encoding) {
    case UnitEncoding::kF32:
      std::memcpy(out, values, elements * sizeof(float));
      return;
    case UnitEncoding::kF16:
      for (size_t i = 0; i < elements; ++i) StoreHalf(out + 2 * i, values[i]);
      return;
    case UnitEncoding::kQ8:
      for (size_t g = 0; g < elements / kQuantGroup; ++g) {
        EncodeQ8Group(values + g * kQuantGroup, out + 2 * g, codes + g * kQuantGroup);
      }
      return;
    case UnitEncoding::kQ4:
      for (size_t g = 0; g < elements / kQuantGroup; ++g) {
        EncodeQ4Group(values + g * kQuantGroup, out + 2 * g, codes + g * kQuantGroup / 2);
      }
      return;
  }
}

void DecodeColumn(UnitEncoding encoding, const uint8_t* column, size_t elements, float* out) {
  const uint8_t* codes = column + ColumnScaleBytes(encoding, elements);
  switch (encoding) {
    case UnitEncoding::kF32:
      std::memcpy(out, column, elements * sizeof(float));
      return;
    case UnitEncoding::kF16:
      for (size_t i = 0; i < elements; ++i) out[i] = LoadHalf(column + 2 * i);
      return;
    case UnitEncoding::kQ8:
      for (size_t i = 0; i < elements; ++i) {
        out[i] = LoadHalf(column + 2 * (i / kQuantGroup)) *
                 static_cast<float>(static_cast<int8_t>(codes[i]));
      }
      return;
    case UnitEncoding::kQ4:
      for (size_t i = 0; i < elements; ++i) {
        const size_t j = i % kQuantGroup;
        const uint8_t byte = codes[i / kQuantGroup * 16 + j % 16];
        const int nibble = j < 16 ? byte & 15 : byte >> 4;
        out[i] = LoadHalf(column + 2 * (i / kQuantGroup)) * static_cast<float>(nibble - 8);
      }
      return;
  }
}

}  // namespace tidegate
