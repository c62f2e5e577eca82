#include "proto/gguf/ggml_type.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "proto/gguf/ggml_groups.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/random_blocks.h"

namespace tidegate::ggml_type_test {

using ::testing::HasSubstr;

// IEEE 754-2008 binary16, straight from its definition.
double HalfByDefinition(uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  const double sign = half & 0x8000 ? -1 : 1;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  if (exponent == 31) return mantissa == 0 ? sign * INFINITY : NAN;
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(HalfTest, EveryHalfIsDecodedExactlyAndComesBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = HalfToFloat(half);
    const double expected = HalfByDefinition(half);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_TRUE(std::isnan(HalfToFloat(FloatToHalf(value)))) << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), expected) << bits;
    ASSERT_EQ(std::signbit(value), (bits & 0x8000) != 0) << bits;
    ASSERT_EQ(FloatToHalf(value), half) << bits;
  }
}

// The nearest half, ties to even, found by looking at both neighbours.
uint16_t NearestHalf(double magnitude) {
  uint16_t low = 0;
  for (uint16_t step = 0x4000; step > 0; step /= 2) {
    if (low + step <= 0x7c00 && HalfByDefinition(low + step) <= magnitude) low += step;
  }
  if (low == 0x7c00) return low;
  // Overflow is decided as if one more exponent existed: 65504 + 16 is the tie with 65536.
  const double above = low + 1 == 0x7c00 ? 65536.0 : HalfByDefinition(low + 1);
  const double to_low = magnitude - HalfByDefinition(low), to_high = above - magnitude;
  if (to_low < to_high || (to_low == to_high && low % 2 == 0)) return low;
  return low + 1;
}

TEST(HalfTest, FloatsRoundToTheNearestHalfTiesToEven) {
  std::mt19937 random(7);
  for (int i = 0; i < 300'000; ++i) {
    const float magnitude = std::bit_cast<float>(static_cast<uint32_t>(random() & 0x7fffffff));
    if (!std::isfinite(magnitude)) continue;
    ASSERT_EQ(FloatToHalf(magnitude), NearestHalf(magnitude)) << magnitude;
    ASSERT_EQ(FloatToHalf(-magnitude), NearestHalf(magnitude) | 0x8000) << magnitude;
  }
  // Between every two neighbours: the tie itself and the floats next to it.
  for (uint32_t half = 0; half < 0x7c00; ++half) {
    const double above =
        half + 1 == 0x7c00 ? 65536.0 : HalfByDefinition(static_cast<uint16_t>(half + 1));
    const auto tie =
        static_cast<float>((HalfByDefinition(static_cast<uint16_t>(half)) + above) / 2);
    for (const float value : {std::nextafterf(tie, 0), tie, std::nextafterf(tie, INFINITY)}) {
      ASSERT_EQ(FloatToHalf(value), NearestHalf(value)) << value;
    }
  }
  EXPECT_EQ(FloatToHalf(INFINITY), 0x7c00);
  EXPECT_EQ(FloatToHalf(-INFINITY), 0xfc00);
  EXPECT_EQ(FloatToHalf(-0.0f), 0x8000);
}

TEST(Bfloat16Test, IsTheUpperHalfOfAFloat) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = Bfloat16ToFloat(static_cast<uint16_t>(bits));
    ASSERT_EQ(std::bit_cast<uint32_t>(value), bits << 16);
  }
  EXPECT_EQ(Bfloat16ToFloat(0x3f80), 1.0f);
  EXPECT_EQ(Bfloat16ToFloat(0xc049), -3.140625f);
}

TEST(GgmlTypeTest, NamesAndSizes) {
  EXPECT_EQ(GgmlTypeName(0), "F32");
  EXPECT_EQ(GgmlTypeName(8), "Q8_0");
  EXPECT_EQ(GgmlTypeName(12), "Q4_K");
  EXPECT_EQ(GgmlTypeName(30), "BF16");
  EXPECT_EQ(GgmlTypeName(4), "type 4");  // withdrawn
  EXPECT_EQ(GgmlTypeName(99), "type 99");
  EXPECT_EQ(GgmlRowBytes(GgmlType::kF32, 64), 256u);
  EXPECT_EQ(GgmlRowBytes(GgmlType::kF16, 64), 128u);
  EXPECT_EQ(GgmlRowBytes(GgmlType::kBF16, 64), 128u);
  EXPECT_EQ(GgmlRowBytes(GgmlType::kQ8_0, 64), 68u);
  EXPECT_EQ(GgmlRowBytes(GgmlType::kQ4_0, 64), 36u);
}

TEST(GgmlTypeTest, UnsupportedTypesAreNamed) {
  const std::set<uint32_t> supported = {0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 15, 20, 23, 30};
  for (uint32_t type = 0; type < 50; ++type) {
    EXPECT_EQ(ToGgmlType(type).ok(), supported.count(type) == 1) << type;
  }
  const std::string message(ToGgmlType(17).status().message());
  EXPECT_THAT(message, HasSubstr("IQ2_XS is not supported"));
  EXPECT_THAT(message, HasSubstr("Q6_K"));
  EXPECT_THAT(std::string(ToGgmlType(999).status().message()),
              HasSubstr("tensor type 999 is not supported"));
}

TEST(GgmlTypeTest, DecodesHandMadeBlocks) {
  // Scale 0.5; codes -128, 127, 1 and zeros.
  const std::string q8 = std::string("\x00\x38", 2) + "\x80\x7f\x01" + std::string(29, '\0');
  float out[32];
  DecodeGgmlRow(GgmlType::kQ8_0, q8.data(), 32, out);
  EXPECT_EQ(out[0], -64);
  EXPECT_EQ(out[1], 63.5f);
  EXPECT_EQ(out[2], 0.5f);
  EXPECT_EQ(out[31], 0);
  // Scale -2: low nibbles are elements 0..15, high nibbles 16..31, 8 is zero.
  std::string q4 = std::string("\x00\xc0", 2) + "\x0f" + std::string(14, '\x88') + "\x1f";
  DecodeGgmlRow(GgmlType::kQ4_0, q4.data(), 32, out);
  EXPECT_EQ(out[0], -14);  // 15 - 8 = 7
  EXPECT_EQ(out[16], 16);  // 0 - 8
  EXPECT_EQ(out[1], 0);
  EXPECT_EQ(out[15], -14);  // 15
  EXPECT_EQ(out[31], 14);   // 1 - 8 = -7
}

// A block whose bytes are zero but for `bytes`, and some of its elements.
struct HandMade {
  GgmlType type;
  std::vector<std::pair<size_t, uint8_t>> bytes;
  std::vector<std::pair<size_t, float>> elements;
};

// Halves: 0x3c00 is 1, 0x4000 is 2.
std::vector<HandMade> HandMadeBlocks() {
  return {
      // d = 2, m = 1; element 1 is 3, element 17 is 15.
      {GgmlType::kQ4_1, {{1, 0x40}, {3, 0x3c}, {5, 0xf3}}, {{0, 1}, {1, 7}, {17, 31}}},
      // Fifth bits of elements 2 and 18 (bits 2 and 18 of the word at 2).
      {GgmlType::kQ5_0, {{1, 0x3c}, {2, 4}, {4, 4}, {8, 0x21}}, {{0, -16}, {2, 1}, {18, 2}}},
      {GgmlType::kQ5_1,
       {{1, 0x3c}, {3, 0x40}, {4, 4}, {6, 4}, {10, 0x21}},
       {{0, 2}, {2, 19}, {18, 20}}},
      // Scale 3 and minimum 2 of group 9, scale 1 of group 15; d = 1, dmin = 2.
      {GgmlType::kQ2_K,
       {{9, 0x23}, {15, 0x01}, {81, 0x3c}, {83, 0x40}, {16 + 32 + 17, 0x02}, {16 + 32 + 31, 0xc0}},
       {{128 + 16, -4}, {128 + 17, 2}, {255, 3}, {0, 0}}},
      // Scales: group 0: 1 + 32 - 32, group 9: 2 + 48 - 32. Third bits of elements 0 and 128 + 16.
      {GgmlType::kQ3_K,
       {{0, 0x01},
        {16, 0x10},
        {32, 0x03},
        {96, 0x01},
        {97, 0x20},
        {104, 0x02},
        {105, 0x30},
        {109, 0x3c}},
       {{0, 3}, {1, -4}, {144, 0}, {145, -72}}},
      // d = 1, dmin = 2. Run 1: scale 5, minimum 7. Run 6: scale 0x2a, minimum 0x1b.
      {GgmlType::kQ4_K,
       {{1, 0x3c},
        {3, 0x40},
        {5, 5},
        {9, 7},
        {6, 0x80},
        {10, 0x40},
        {14, 0xba},
        {16 + 3, 0x90},
        {16 + 96 + 1, 0x04}},
       {{32 + 3, 45 - 14}, {32, -14}, {192 + 1, 4 * 42 - 54}, {192, -54}}},
      {GgmlType::kQ5_K,
       {{1, 0x3c}, {3, 0x40}, {5, 5}, {9, 7}, {16 + 3, 0x02}, {48 + 3, 0x90}},
       {{32 + 3, 5 * 25 - 14}, {32, -14}}},
      // Element 128 + 96 + 31 is 0x2f - 32 = 15 times scale -3; element 0 is -32 times 1.
      {GgmlType::kQ6_K,
       {{64 + 63, 0xf0}, {128 + 63, 0x80}, {192, 1}, {192 + 15, 0xfd}, {209, 0x3c}},
       {{0, -32}, {255, -45}, {254, 96}}},
      {GgmlType::kQ8_K, {{3, 0x3f}, {4, 0x80}, {259, 3}}, {{0, -64}, {255, 1.5f}}},
      {GgmlType::kIQ4_NL, {{1, 0x40}, {3, 0xf8}}, {{1, 2}, {17, 226}, {0, -254}}},
      // Run 5: scale 0x2c - 32 = 12, from a nibble 12 and upper bits 2.
      {GgmlType::kIQ4_XS, {{1, 0x3c}, {3, 0x08}, {6, 0xc0}, {8 + 80, 0x90}}, {{160 + 16, 156}}},
  };
}

TEST(GgmlTypeTest, DecodesHandMadeBlocksOfEveryType) {
  for (const HandMade& row : HandMadeBlocks()) {
    std::vector<uint8_t> block(GgmlBlockBytes(row.type));
    for (const auto& [at, byte] : row.bytes) block[at] = byte;
    float out[256];
    DecodeGgmlRow(row.type, block.data(), GgmlBlockElements(row.type), out);
    for (const auto& [element, value] : row.elements) {
      EXPECT_EQ(out[element], value)
          << GgmlTypeName(static_cast<uint32_t>(row.type)) << " element " << element;
    }
  }
}

// Decoders may fuse the last sum or not (ggml_groups.h).
TEST(GgmlTypeTest, ProductsOfScaleAndCodeAreExact) {
  std::mt19937 random(5);
  for (const GgmlType type : AllGgmlTypes()) {
    if (GgmlBlockElements(type) == 1 || type == GgmlType::kQ8_K) continue;
    for (int i = 0; i < 200; ++i) {
      const std::vector<uint8_t> row = RandomGgmlRow(type, 256, random);
      GgmlGroups groups;
      UnpackGgmlGroups(type, row.data(), 256, groups);
      for (size_t e = 0; e < 256; ++e) {
        const float scale = groups.scales[e / 16], code = groups.codes[e];
        ASSERT_EQ(static_cast<double>(scale * code), static_cast<double>(scale) * code)
            << GgmlTypeName(static_cast<uint32_t>(type));
      }
    }
  }
}

TEST(GgmlTypeTest, RowsDecodeToWhatWasEncodedWithinTheTypesError) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 0.1f);
  std::vector<float> values(256), decoded(256);
  for (float& v : values) v = normal(random);
  const std::pair<GgmlType, float> kBounds[] = {{GgmlType::kF32, 0.0f},
                                                {GgmlType::kF16, 2e-4f},
                                                {GgmlType::kBF16, 2e-3f},
                                                {GgmlType::kQ8_0, 2e-3f},
                                                {GgmlType::kQ4_0, 6e-2f}};
  for (const auto& [type, bound] : kBounds) {
    const std::string row = EncodeGgmlRow(type, values.data(), values.size());
    ASSERT_EQ(row.size(), GgmlRowBytes(type, values.size()));
    DecodeGgmlRow(type, row.data(), values.size(), decoded.data());
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_NEAR(decoded[i], values[i], bound)
          << GgmlTypeName(static_cast<uint32_t>(type)) << " " << i;
    }
  }
}

}  // namespace tidegate::ggml_type_test
