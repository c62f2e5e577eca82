#include "proto/gguf/finite.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/support/gguf_builder.h"

namespace tidegate::finite_test {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(FiniteTest, FindsTheFirstOfFloats) {
  for (const size_t size : {1, 5, 63, 64, 65, 255, 256, 257, 1000}) {
    std::vector<float> values(size, std::numeric_limits<float>::max());
    values[0] = -std::numeric_limits<float>::denorm_min();
    EXPECT_EQ(FirstNotFinite(values), std::nullopt) << size;
    for (size_t at = 0; at < size; at += 1 + size / 7) {
      for (const float bad : {kNan, -kNan, kInfinity, -kInfinity}) {
        std::vector<float> spoilt = values;
        spoilt[at] = spoilt[size - 1] = bad;
        EXPECT_EQ(FirstNotFinite(spoilt), at) << size;
      }
    }
  }
  EXPECT_EQ(FirstNotFinite(std::span<const float>()), std::nullopt);
}

TEST(FiniteTest, Halves) {
  std::vector<uint16_t> halves(130, 0xfbff);  // the largest, negative
  EXPECT_TRUE(AllFiniteHalves(halves));
  for (const uint16_t bad : {0x7c00, 0xfc00, 0x7e01}) {
    halves[129] = bad;
    EXPECT_FALSE(AllFiniteHalves(halves));
  }
}

// Whatever bytes a block has: what the decoder makes of them is finite, or its place is found.
TEST(FiniteTest, AgreesWithTheDecoderOnEveryType) {
  constexpr size_t kElements = 768;
  uint64_t state = 7;
  const auto random = [&state] {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<char>(state >> 56);
  };
  size_t found = 0, clean = 0;
  for (uint32_t number = 0; number < 40; ++number) {
    if (!ToGgmlType(number).ok()) continue;
    const auto type = static_cast<GgmlType>(number);
    for (int round = 0; round < 300; ++round) {
      std::string row(GgmlRowBytes(type, kElements), '\0');
      if (round > 0) {
        for (char& byte : row) byte = random();
      }
      std::vector<float> decoded(kElements);
      DecodeGgmlRow(type, row.data(), kElements, decoded.data());
      std::optional<size_t> expected;
      for (size_t i = 0; i < kElements && !expected; ++i) {
        if (!std::isfinite(decoded[i])) expected = i;
      }
      ASSERT_EQ(FirstNotFinite(type, row.data(), kElements), expected) << GgmlTypeName(number);
      ++(expected ? found : clean);
    }
  }
  EXPECT_GT(found, 500u);
  EXPECT_GT(clean, 500u);
}

}  // namespace tidegate::finite_test
