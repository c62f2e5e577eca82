#include "proto/store/v1/unit_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "proto/gguf/ggml_type.h"
#include "tests/support/random_values.h"

namespace tidegate::unit_codec_test {

constexpr UnitEncoding kAll[] = {UnitEncoding::kF32, UnitEncoding::kF16, UnitEncoding::kQ8,
                                 UnitEncoding::kQ4};

std::vector<uint8_t> Encode(UnitEncoding encoding, const std::vector<float>& values) {
  // One byte more, to see that nothing is written past the end.
  std::vector<uint8_t> bytes(ColumnBytes(encoding, values.size()) + 1, 0xee);
  EncodeColumn(encoding, values.data(), values.size(), bytes.data());
  EXPECT_EQ(bytes.back(), 0xee);
  return bytes;
}

std::vector<float> RoundTrip(UnitEncoding encoding, const std::vector<float>& values) {
  std::vector<float> out(values.size(), NAN);
  DecodeColumn(encoding, Encode(encoding, values).data(), values.size(), out.data());
  return out;
}

TEST(UnitCodecTest, NamesGoBothWays) {
  for (const UnitEncoding encoding : kAll) {
    EXPECT_EQ(*ParseUnitEncoding(UnitEncodingName(encoding)), encoding);
    EXPECT_TRUE(IsUnitEncoding(static_cast<uint32_t>(encoding)));
  }
  EXPECT_FALSE(IsUnitEncoding(0));
  EXPECT_FALSE(IsUnitEncoding(5));
  for (const char* name : {"", "q5", "Q8", "f"}) {
    const auto parsed = ParseUnitEncoding(name);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(parsed.status().message()), ::testing::HasSubstr("f32, f16, q8 or q4"));
  }
}

TEST(UnitCodecTest, SizesAreGolden) {
  struct Row {
    UnitEncoding encoding;
    size_t elements, scale_bytes, bytes;
  };
  for (const Row& row :
       {Row{UnitEncoding::kF32, 1, 0, 16}, Row{UnitEncoding::kF32, 768, 0, 3072},
        Row{UnitEncoding::kF16, 1, 0, 16}, Row{UnitEncoding::kF16, 100, 0, 208},
        Row{UnitEncoding::kQ8, 32, 16, 48}, Row{UnitEncoding::kQ8, 256, 16, 272},
        Row{UnitEncoding::kQ8, 768, 48, 816}, Row{UnitEncoding::kQ8, 14336, 896, 15232},
        Row{UnitEncoding::kQ4, 32, 16, 32}, Row{UnitEncoding::kQ4, 768, 48, 432},
        Row{UnitEncoding::kQ4, 4096, 256, 2304}}) {
    EXPECT_EQ(ColumnScaleBytes(row.encoding, row.elements), row.scale_bytes);
    EXPECT_EQ(ColumnBytes(row.encoding, row.elements), row.bytes);
  }
}

TEST(UnitCodecTest, F32IsExact) {
  const auto values = Normals(37, 1, 1);
  EXPECT_EQ(RoundTrip(UnitEncoding::kF32, values), values);
}

TEST(UnitCodecTest, F16IsTheNearestHalf) {
  const auto values = Normals(37, 1, 2);
  const auto decoded = RoundTrip(UnitEncoding::kF16, values);
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(decoded[i], HalfToFloat(FloatToHalf(values[i])));
  }
}

// For every group the codes must be the best ones for the scale that is stored; the scale itself is
// the half nearest to extreme / 127.
TEST(UnitCodecTest, Q8IsTheNearestCodeToADoubleReference) {
  for (const float deviation : {1e-3f, 0.02f, 1.0f, 100.0f}) {
    const auto values = Normals(256, deviation, 3);
    const auto column = Encode(UnitEncoding::kQ8, values);
    const auto decoded = RoundTrip(UnitEncoding::kQ8, values);
    for (size_t group = 0; group < values.size() / kQuantGroup; ++group) {
      const float* in = &values[group * kQuantGroup];
      double extreme = 0;
      for (size_t i = 0; i < kQuantGroup; ++i)
        extreme = std::max<double>(extreme, std::fabs(in[i]));
      uint16_t half;
      std::memcpy(&half, &column[2 * group], 2);
      const double scale = HalfToFloat(half);
      ASSERT_NEAR(scale, extreme / 127, extreme / 127 * std::ldexp(1, -10) + std::ldexp(1, -25));
      for (size_t i = 0; i < kQuantGroup; ++i) {
        double best = INFINITY;
        for (int code = -127; code <= 127; ++code)
          best = std::min(best, std::fabs(in[i] - scale * code));
        ASSERT_LE(std::fabs(in[i] - decoded[group * kQuantGroup + i]), best + 1e-6 * scale) << i;
      }
    }
  }
}

// Sum of squared differences of a group of 4-bit codes, the best ones for this scale.
double Q4SquaredError(const float* group, double scale) {
  double sum = 0;
  for (size_t i = 0; i < kQuantGroup; ++i) {
    double best = INFINITY;
    for (int code = -8; code <= 7; ++code) {
      best = std::min(best, std::fabs(group[i] - scale * code));
    }
    sum += best * best;
  }
  return sum;
}

TEST(UnitCodecTest, Q4IsTheNearestCodeToADoubleReference) {
  const auto values = Normals(512, 0.05f, 4);
  const auto column = Encode(UnitEncoding::kQ4, values);
  const auto decoded = RoundTrip(UnitEncoding::kQ4, values);
  for (size_t group = 0; group < values.size() / kQuantGroup; ++group) {
    const float* in = &values[group * kQuantGroup];
    uint16_t half;
    std::memcpy(&half, &column[2 * group], 2);
    const double scale = HalfToFloat(half);
    double sum = 0;
    for (size_t i = 0; i < kQuantGroup; ++i) {
      sum += std::pow(in[i] - decoded[group * kQuantGroup + i], 2.0);
    }
    ASSERT_NEAR(sum, Q4SquaredError(in, scale), 1e-5 * sum);
  }
}

TEST(UnitCodecTest, Q4ScalesAreNeverWorseThanTheExtremeAtMinusEight) {
  double searched = 0, plain = 0;
  std::vector<float> values = Normals(32 * 1000, 0.02f, 6);
  for (size_t i = 0; i < 1600; ++i) values[i] = std::pow(values[i], 3.0f);       // long tails
  for (size_t i = 1600; i < 3200; ++i) values[i] = std::copysign(1, values[i]);  // two values
  for (size_t i = 3200; i < 3232; ++i) values[i] *= i == 3210 ? 1e4f : 1e-4f;    // one value
  const auto decoded = RoundTrip(UnitEncoding::kQ4, values);
  for (size_t group = 0; group < values.size() / kQuantGroup; ++group) {
    const float* in = &values[group * kQuantGroup];
    const float extreme = *std::max_element(
        in, in + kQuantGroup, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
    const double at_extreme = Q4SquaredError(in, HalfToFloat(FloatToHalf(extreme / -8)));
    double sum = 0;
    for (size_t i = 0; i < kQuantGroup; ++i) {
      sum += std::pow(in[i] - decoded[group * kQuantGroup + i], 2.0);
    }
    ASSERT_LE(sum, at_extreme * (1 + 1e-5) + 1e-30) << group;
    if (group >= 110) searched += sum, plain += at_extreme;
  }
  EXPECT_LT(std::sqrt(searched / plain), 0.96);  // measured 0.944
}

TEST(UnitCodecTest, WhatIsNotFiniteNeverLooksFinite) {
  for (const float bad : {NAN, INFINITY, -INFINITY, 1e30f}) {
    auto values = Normals(64, 1, 7);
    values[5] = bad;
    const auto decoded = RoundTrip(UnitEncoding::kQ4, values);
    double difference = 0;
    for (size_t i = 0; i < values.size(); ++i) difference += std::fabs(decoded[i] - values[i]);
    EXPECT_FALSE(std::isfinite(difference)) << bad;
  }
}

TEST(UnitCodecTest, RelativeErrorsAreWhatTheseFormatsShouldGive) {
  const auto values = Normals(32 * 1000, 0.02f, 5);
  const double bounds[] = {0, 0, 2.5e-4, 0.0065,
                           0.09};  // by encoding; measured 0.0002, 0.0055, 0.083
  for (const UnitEncoding encoding : kAll) {
    const auto decoded = RoundTrip(encoding, values);
    double difference = 0, source = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      difference += std::pow(decoded[i] - values[i], 2.0);
      source += std::pow(values[i], 2.0);
    }
    EXPECT_LE(std::sqrt(difference / source), bounds[static_cast<int>(encoding)])
        << UnitEncodingName(encoding);
  }
}

TEST(UnitCodecTest, ExtremesAndZerosSurvive) {
  std::vector<float> values(64, 0);
  for (const UnitEncoding encoding : kAll) EXPECT_EQ(RoundTrip(encoding, values), values);
  values[3] = -127;  // q8: scale 1 exactly; q4: scale 127 / 8
  values[40] = 8;
  for (const UnitEncoding encoding : kAll) {
    const auto decoded = RoundTrip(encoding, values);
    EXPECT_EQ(decoded[3], -127) << UnitEncodingName(encoding);
    EXPECT_NEAR(decoded[40], 8, 0.005) << UnitEncodingName(encoding);
    EXPECT_EQ(decoded[0], 0);
  }
  // So small that the scale is zero: zeros, not a division by zero.
  const std::vector<float> tiny(32, 1e-12f);
  for (const UnitEncoding encoding : {UnitEncoding::kQ8, UnitEncoding::kQ4}) {
    EXPECT_EQ(RoundTrip(encoding, tiny), std::vector<float>(32, 0));
  }
}

TEST(UnitCodecTest, PaddingIsZero) {
  const std::vector<float> values(32, 1);
  for (const UnitEncoding encoding : {UnitEncoding::kQ8, UnitEncoding::kQ4}) {
    const auto column = Encode(encoding, values);
    for (size_t i = 2; i < 16; ++i) EXPECT_EQ(column[i], 0) << i;
  }
  const auto half = Encode(UnitEncoding::kF16, {1, 2, 3});
  for (size_t i = 6; i < 16; ++i) EXPECT_EQ(half[i], 0) << i;
}

TEST(UnitCodecDeathTest, PartialGroupsAreAProgrammersError) {
  const std::vector<float> values(33, 1);
  uint8_t out[256];
  EXPECT_DEATH(EncodeColumn(UnitEncoding::kQ8, values.data(), 33, out), "CHECK failed");
}

}  // namespace tidegate::unit_codec_test
