// Random rows of any tensor type: whatever the bits of a block may be, with scales that keep the
// values ordinary.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "proto/gguf/ggml_type.h"

namespace tidegate {

// Where the half floats of a block lie; empty for types without blocks.
inline std::vector<size_t> HalvesOf(GgmlType type) {
  switch (type) {
    case GgmlType::kQ4_1:
    case GgmlType::kQ5_1:
    case GgmlType::kQ4_K:
    case GgmlType::kQ5_K:
      return {0, 2};
    case GgmlType::kQ2_K:
      return {80, 82};
    case GgmlType::kQ3_K:
      return {108};
    case GgmlType::kQ6_K:
      return {208};
    case GgmlType::kF32:
    case GgmlType::kF16:
    case GgmlType::kBF16:
    case GgmlType::kQ8_K:
      return {};
    default:
      return {0};
  }
}

inline void FillRandomBlock(GgmlType type, uint8_t* block, std::mt19937& random) {
  std::normal_distribution<float> normal;
  const float value = normal(random);
  if (GgmlBlockElements(type) == 1) {
    const uint16_t half = FloatToHalf(value);
    const auto bfloat = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
    if (type == GgmlType::kF32) std::memcpy(block, &value, sizeof(value));
    if (type == GgmlType::kF16) std::memcpy(block, &half, sizeof(half));
    if (type == GgmlType::kBF16) std::memcpy(block, &bfloat, sizeof(bfloat));
    return;
  }
  for (size_t i = 0; i < GgmlBlockBytes(type); ++i) block[i] = static_cast<uint8_t>(random());
  const float scale = GgmlBlockElements(type) > 32 ? 0.002f : 0.05f;
  for (const size_t at : HalvesOf(type)) {
    const uint16_t half = FloatToHalf(scale * normal(random));
    std::memcpy(block + at, &half, sizeof(half));
  }
  if (type == GgmlType::kQ8_K) {
    const float wide = scale * value;
    std::memcpy(block, &wide, sizeof(wide));
  }
}

// As it lies in a GGUF file. REQUIRES: whole blocks.
inline std::vector<uint8_t> RandomGgmlRow(GgmlType type, size_t elements, std::mt19937& random) {
  std::vector<uint8_t> row(GgmlRowBytes(type, elements));
  for (size_t at = 0; at < row.size(); at += GgmlBlockBytes(type)) {
    FillRandomBlock(type, row.data() + at, random);
  }
  return row;
}

// Every type that ToGgmlType() accepts.
inline std::vector<GgmlType> AllGgmlTypes() {
  std::vector<GgmlType> types;
  for (uint32_t number = 0; number < 64; ++number) {
    if (const auto type = ToGgmlType(number); type.ok()) types.push_back(*type);
  }
  return types;
}

}  // namespace tidegate
