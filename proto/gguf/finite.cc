#include "proto/gguf/finite.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace tidegate {
namespace {

constexpr size_t kChunk = 256;  // elements: a whole number of blocks of every type
constexpr size_t kRun = 64;     // words: a fixed count becomes vector instructions

// One step above the largest exponent the sum carries into the sign bit, which is masked out.
template <typename Word, Word kExponent>
constexpr Word Carry(Word word) {
  constexpr Word kLowest = kExponent & static_cast<Word>(~kExponent + 1);
  return static_cast<Word>((word & kExponent) + kLowest);
}

// Whether a word has all bits of the exponent set.
template <typename Word, Word kExponent>
bool AnySpecial(const uint8_t* bytes, size_t count) {
  constexpr Word kSign = static_cast<Word>(Word{1} << (8 * sizeof(Word) - 1));
  Word seen = 0;
  Word words[kRun];
  size_t i = 0;
  for (; i + kRun <= count; i += kRun) {
    std::memcpy(words, bytes + i * sizeof(Word), sizeof(words));
    for (size_t j = 0; j < kRun; ++j) seen |= Carry<Word, kExponent>(words[j]);
  }
  std::memcpy(words, bytes + i * sizeof(Word), (count - i) * sizeof(Word));
  for (size_t j = 0; i + j < count; ++j) seen |= Carry<Word, kExponent>(words[j]);
  return (seen & kSign) != 0;
}

constexpr uint16_t kHalfExponent = 0x7c00;

// Where the half-precision factors of a quantised block lie, in bytes.
struct Factors {
  size_t first, second;  // the same where there is one
};

Factors FactorsOf(GgmlType type) {
  switch (type) {
    case GgmlType::kQ4_1:
    case GgmlType::kQ5_1:
    case GgmlType::kQ4_K:
    case GgmlType::kQ5_K:
      return {0, 2};
    case GgmlType::kQ2_K:
      return {80, 82};
    case GgmlType::kQ3_K:
      return {108, 108};
    case GgmlType::kQ6_K:
      return {208, 208};
    default:
      return {0, 0};
  }
}

bool AnySpecialBlock(GgmlType type, const uint8_t* blocks, size_t count) {
  const Factors factors = FactorsOf(type);
  const size_t bytes = GgmlBlockBytes(type);
  uint16_t seen = 0;
  for (size_t b = 0; b < count; ++b) {
    for (const size_t at : {factors.first, factors.second}) {
      uint16_t half;
      std::memcpy(&half, blocks + b * bytes + at, sizeof(half));
      seen |= Carry<uint16_t, kHalfExponent>(half);
    }
  }
  return (seen & 0x8000) != 0;
}

// May say yes where all are finite, never no where one is not.
bool Suspicious(GgmlType type, const uint8_t* row, size_t elements) {
  switch (type) {
    case GgmlType::kF32:
      return AnySpecial<uint32_t, 0x7f800000>(row, elements);
    case GgmlType::kF16:
      return AnySpecial<uint16_t, kHalfExponent>(row, elements);
    case GgmlType::kBF16:
      return AnySpecial<uint16_t, 0x7f80>(row, elements);
    case GgmlType::kQ8_K:
      return true;  // Its scale is a float: the product overflows where both are finite.
    default:
      return AnySpecialBlock(type, row, elements / GgmlBlockElements(type));
  }
}

}  // namespace

std::optional<size_t> FirstNotFinite(GgmlType type, const void* row, size_t elements) {
  const auto* in = static_cast<const uint8_t*>(row);
  float decoded[kChunk];
  for (size_t at = 0; at < elements; at += kChunk) {
    const size_t count = std::min(kChunk, elements - at);
    const uint8_t* chunk = in + GgmlRowBytes(type, at);
    if (!Suspicious(type, chunk, count)) continue;
    DecodeGgmlRow(type, chunk, count, decoded);
    for (size_t i = 0; i < count; ++i) {
      if (!std::isfinite(decoded[i])) return at + i;
    }
  }
  return std::nullopt;
}

std::optional<size_t> FirstNotFinite(std::span<const float> values) {
  return FirstNotFinite(GgmlType::kF32, values.data(), values.size());
}

bool AllFiniteHalves(std::span<const uint16_t> halves) {
  return !AnySpecial<uint16_t, kHalfExponent>(reinterpret_cast<const uint8_t*>(halves.data()),
                                              halves.size());
}

}  // namespace tidegate
