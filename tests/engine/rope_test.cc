#include "engine/rope.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tidegate::rope_test {

using Kind = RopeStretch::Kind;

TEST(RopeTableTest, FrequenciesFallWithThePair) {
  const RopeTable table = MakeRopeTable(10000, 8, nullptr, {}, 1);
  ASSERT_EQ(table.frequencies.size(), 4u);
  EXPECT_DOUBLE_EQ(table.frequencies[0], 1);
  EXPECT_DOUBLE_EQ(table.frequencies[1], 0.1);
  EXPECT_DOUBLE_EQ(table.frequencies[3], 0.001);
  EXPECT_EQ(table.magnitude, 1);
  EXPECT_TRUE(MakeRopeTable(10000, 0, nullptr, {}, 1).frequencies.empty());
}

TEST(RopeTableTest, DivisorsAndTheLinearFactorDivide) {
  const float divisors[] = {1, 2, 4, 8};
  const RopeTable table =
      MakeRopeTable(10000, 8, divisors, {.kind = Kind::kLinear, .factor = 4}, 1.5);
  EXPECT_DOUBLE_EQ(table.frequencies[0], 0.25);
  EXPECT_DOUBLE_EQ(table.frequencies[1], 0.1 / 2 / 4);
  EXPECT_DOUBLE_EQ(table.frequencies[3], 0.001 / 8 / 4);
  EXPECT_EQ(table.magnitude, 1.5);
}

TEST(RopeTableTest, YarnKeepsFastPairsAndStretchesSlowOnes) {
  // 128 elements, base 10000, context 4096: pair 20.9 turns 32 times, pair 45.03 once.
  const RopeStretch stretch = {.kind = Kind::kYarn, .factor = 16, .original_context = 4096};
  const RopeTable plain = MakeRopeTable(10000, 128, nullptr, {}, 1);
  const RopeTable yarn = MakeRopeTable(10000, 128, nullptr, stretch, 1);
  for (size_t i = 0; i <= 20; ++i) EXPECT_EQ(yarn.frequencies[i], plain.frequencies[i]) << i;
  for (size_t i = 46; i < 64; ++i) {
    EXPECT_DOUBLE_EQ(yarn.frequencies[i], plain.frequencies[i] / 16) << i;
  }
  const double half = plain.frequencies[33] * (0.5 + 0.5 / 16);  // in the middle of 20 and 46
  EXPECT_DOUBLE_EQ(yarn.frequencies[33], half);
  EXPECT_DOUBLE_EQ(yarn.magnitude, 1 + 0.1 * std::log(16.0));
}

TEST(RotationsTest, PairsAreNeighboursOrHalvesAndTheRestStays) {
  const RopeTable table = {.frequencies = {1.0, 0.5}, .magnitude = 2};
  Rotations rotations;
  rotations.Append(table, 5, 1);
  rotations.Append(table, 6, 2);
  const std::vector<float> start = {1, 2, 3, 4, 5, 6, -1, 0, 1, 7, 8, 9};  // two heads of 6
  const auto turned = [&](float a, float b, double angle) {
    return std::pair(2 * (a * std::cos(angle) - b * std::sin(angle)),
                     2 * (a * std::sin(angle) + b * std::cos(angle)));
  };
  std::vector<float> adjacent = start, halves = start;
  rotations.Rotate(RopePairs::kAdjacent, 2, adjacent.data(), 2, 6);  // position 7
  rotations.Rotate(RopePairs::kHalves, 2, halves.data(), 2, 6);
  for (size_t head = 0; head < 12; head += 6) {
    for (size_t pair = 0; pair < 2; ++pair) {
      const double angle = pair == 0 ? 7 : 3.5;
      const auto [a, b] = turned(start[head + 2 * pair], start[head + 2 * pair + 1], angle);
      EXPECT_NEAR(adjacent[head + 2 * pair], a, 1e-5);
      EXPECT_NEAR(adjacent[head + 2 * pair + 1], b, 1e-5);
      const auto [c, d] = turned(start[head + pair], start[head + pair + 2], angle);
      EXPECT_NEAR(halves[head + pair], c, 1e-5);
      EXPECT_NEAR(halves[head + pair + 2], d, 1e-5);
    }
    for (size_t i = head + 4; i < head + 6; ++i) {
      EXPECT_EQ(adjacent[i], start[i]);
      EXPECT_EQ(halves[i], start[i]);
    }
  }
}

}  // namespace tidegate::rope_test
