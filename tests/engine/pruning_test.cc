#include "engine/pruning.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace tidegate::pruning_test {

using ::testing::ElementsAre;

std::vector<uint32_t> Select(MaskSelector& selector, std::span<const float> values,
                             MaskParams params, const std::vector<uint32_t>& resident_blocks = {},
                             uint32_t units_per_block = 1, std::vector<uint32_t> unit_at = {}) {
  std::vector<ResidencyEntry> residency((values.size() + units_per_block - 1) / units_per_block);
  for (const uint32_t block : resident_blocks) residency[block] = 1;
  const auto positions = selector.Select(values, params, unit_at, residency, units_per_block);
  return {positions.begin(), positions.end()};
}

TEST(SplitDensityTest, FollowsThePublishedFit) {
  // Counts of an independent reference for H = 256, I = 768.
  const struct {
    double density;
    uint32_t kept_input, kept_hidden;
  } cases[] = {{1.0, 256, 768}, {0.75, 204, 500}, {0.5, 147, 269}, {0.35, 108, 156}};
  for (const auto& c : cases) {
    const DensitySplit split = SplitDensity(c.density);
    EXPECT_EQ(KeptUnits(split.keep_input, 256), c.kept_input) << c.density;
    EXPECT_EQ(KeptUnits(split.keep_hidden, 768), c.kept_hidden) << c.density;
    EXPECT_NEAR((2 * split.keep_input + split.keep_hidden) / 3, c.density, 1e-9);
  }
  EXPECT_EQ(KeptUnits(SplitDensity(0.001).keep_hidden, 100), 1u);
}

TEST(WarmUpGammaTest, StartsWithoutBiasAndApproachesGamma) {
  EXPECT_DOUBLE_EQ(WarmUpGamma(0.2, 0), 1.0);
  EXPECT_NEAR(WarmUpGamma(0.2, 4), 1 - 0.8 * (1 - 0.2), 1e-12);
  EXPECT_NEAR(WarmUpGamma(0.2, 100), 0.2, 1e-6);
  EXPECT_DOUBLE_EQ(WarmUpGamma(0, 0), 1.0);
  EXPECT_DOUBLE_EQ(WarmUpGamma(0, 1), 0.0);
  EXPECT_DOUBLE_EQ(WarmUpGamma(1, 7), 1.0);
}

TEST(MaskSelectorTest, TakesTheLargestMagnitudesInPackOrder) {
  MaskSelector selector;
  const float values[] = {0.1f, -5, 3, -0.2f, 4};
  EXPECT_THAT(Select(selector, values, {.kept = 3}), ElementsAre(1, 2, 4));
  EXPECT_THAT(Select(selector, values, {.kept = 5}), ElementsAre(0, 1, 2, 3, 4));
}

TEST(MaskSelectorTest, TiesGoToTheSmallerPosition) {
  MaskSelector selector;
  const float values[] = {1, 2, -1, 1, 1};
  EXPECT_THAT(Select(selector, values, {.kept = 3}), ElementsAre(0, 1, 2));
}

TEST(MaskSelectorTest, GammaPrefersResidentUnits) {
  MaskSelector selector;
  const float values[] = {10, 9, 8, 3, 2};
  EXPECT_THAT(Select(selector, values, {.kept = 2, .gamma = 0.19}, {3, 4}), ElementsAre(3, 4));
  EXPECT_THAT(Select(selector, values, {.kept = 2, .gamma = 0.25}, {3, 4}), ElementsAre(0, 3));
  EXPECT_THAT(Select(selector, values, {.kept = 3, .gamma = 0}, {4}), ElementsAre(0, 1, 4));
  // Where residents do not suffice, the largest of the others follow and not the first.
  const float rising[] = {1, 3, 8, 9};
  EXPECT_THAT(Select(selector, rising, {.kept = 3, .gamma = 0}, {0}), ElementsAre(0, 2, 3));
}

TEST(MaskSelectorTest, FixedTopNIsSparedTheFactor) {
  MaskSelector selector;
  const float values[] = {10, 9, 8, 3, 2};
  EXPECT_THAT(Select(selector, values, {.kept = 2, .gamma = 0.2, .fixed_top_n = 1}, {3, 4}),
              ElementsAre(0, 3));
}

TEST(MaskSelectorTest, AProtectedShareOfTheMaskIsSparedTheFactor) {
  MaskSelector selector;
  const float values[] = {10, 9, 8, 3, 2, 1};
  // Half of four: the two largest come in, whatever is resident.
  const MaskParams half = {.kept = 4, .gamma = 0, .protected_share = 0.5};
  EXPECT_THAT(Select(selector, values, half, {2, 3, 4, 5}), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Select(selector, values, {.kept = 4, .gamma = 0}, {2, 3, 4, 5}),
              ElementsAre(2, 3, 4, 5));
  // The larger of the two protections holds.
  EXPECT_THAT(Select(selector, values,
                     {.kept = 4, .gamma = 0, .fixed_top_n = 3, .protected_share = 0.5}, {3, 4, 5}),
              ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Select(selector, values,
                     {.kept = 4, .gamma = 0, .fixed_top_n = 1, .protected_share = 1}, {4, 5}),
              ElementsAre(0, 1, 2, 3));
  // A share of less than one unit is none.
  EXPECT_THAT(Select(selector, values, {.kept = 1, .gamma = 0, .protected_share = 0.9}, {5}),
              ElementsAre(5));
}

TEST(MaskSelectorTest, ABlockIsProtectedByItsOwnScore) {
  MaskSelector selector;
  // Blocks of two, the last is resident. Root mean squares: 4.53, 6.04, 5.
  const float values[] = {6.4f, 0.2f, 6, 6.08f, 5, 5};
  const auto mask = [&](double share) {
    return Select(selector, values, {.kept = 2, .gamma = 0.1, .protected_share = share}, {2}, 2);
  };
  EXPECT_THAT(mask(0), ElementsAre(4, 5));
  // One protected score, 6.4: no block as a whole has as much.
  EXPECT_THAT(mask(0.5), ElementsAre(4, 5));
  // Two, 6.08: neither.
  EXPECT_THAT(mask(1), ElementsAre(4, 5));
  // Three of three, 6: the second block has 6.04, beside the first of the resident ones.
  EXPECT_THAT(Select(selector, values, {.kept = 3, .gamma = 0.1, .protected_share = 1}, {2}, 2),
              ElementsAre(2, 3, 4));
}

TEST(ScoreBlocksTest, SharesOfTheBlockThatCountsMost) {
  const float values[] = {3, -4, 1, 0, 10, 2.5f};  // by unit
  const uint32_t positions[] = {0, 1, 3, 4};
  std::vector<WantedBlock> wanted;
  // Blocks of two: 5 (3 and -4), 0 and 10.
  ScoreBlocks(values, {}, positions, 2, 0, wanted);
  ASSERT_EQ(wanted.size(), 3u);
  EXPECT_EQ(wanted[2].block, 2u);
  EXPECT_EQ(wanted[0].score, 32768);
  EXPECT_EQ(wanted[1].score, 0);
  EXPECT_EQ(wanted[2].score, kScoreMax);
  // Position p holds unit 5 - p: 2.5 and 10, 1, -4.
  const uint32_t unit_at[] = {5, 4, 3, 2, 1, 0};
  ScoreBlocks(values, unit_at, positions, 2, 0, wanted);
  EXPECT_EQ(wanted[0].score, kScoreMax);
  EXPECT_EQ(wanted[1].score, std::lround(1 / std::sqrt(106.25) * kScoreMax));
  EXPECT_EQ(wanted[2].score, std::lround(4 / std::sqrt(106.25) * kScoreMax));
}

// Experts: values and residency are those of the part, units and positions those of the layer.
TEST(MaskSelectorTest, APartOfALayersUnitsIsAWholeOfItsOwn) {
  MaskSelector selector;
  const float values[] = {1, 2, 3, 4};  // of units 8 to 11
  EXPECT_THAT(Select(selector, values, {.kept = 2, .first_unit = 8}), ElementsAre(10, 11));
  EXPECT_THAT(Select(selector, values, {.kept = 4, .first_unit = 8}), ElementsAre(8, 9, 10, 11));
  const std::vector<uint32_t> unit_at = {11, 8, 10, 9};
  EXPECT_THAT(Select(selector, values, {.kept = 2, .first_unit = 8}, {}, 1, unit_at),
              ElementsAre(8, 10));
  EXPECT_THAT(Select(selector, values, {.kept = 2, .gamma = 0, .first_unit = 8}, {1}, 2, unit_at),
              ElementsAre(10, 11));

  std::vector<WantedBlock> wanted;  // in blocks of two
  ScoreBlocks(values, unit_at, std::vector<uint32_t>{8, 11}, 2, 8, wanted);
  EXPECT_EQ(wanted[0].score, kScoreMax);
  EXPECT_EQ(wanted[1].score, kScoreMax / 2 + 1);
}

TEST(ScoreBlocksTest, NothingAndEverythingHaveScores) {
  const uint32_t positions[] = {0, 1};
  std::vector<WantedBlock> wanted;
  const float zeros[] = {0, 0};
  ScoreBlocks(zeros, {}, positions, 1, 0, wanted);
  EXPECT_EQ(wanted[0].score, 0);
  const float odd[] = {std::numeric_limits<float>::quiet_NaN(), 1};
  ScoreBlocks(odd, {}, positions, 1, 0, wanted);
  EXPECT_EQ(wanted[0].score, kScoreMax);
  EXPECT_EQ(wanted[1].score, 0);
}

TEST(MaskSelectorTest, ResidencyIsByBlockAndPositionsByPermutation) {
  MaskSelector selector;
  const float values[] = {1, 2, 3, 4};  // by unit
  // Position p holds unit unit_at[p]: values by position are 4, 3, 2, 1.
  EXPECT_THAT(Select(selector, values, {.kept = 2}, {}, 2, {3, 2, 1, 0}), ElementsAre(0, 1));
  // Block 1 (positions 2, 3) is resident.
  EXPECT_THAT(Select(selector, values, {.kept = 2, .gamma = 0.1}, {1}, 2, {3, 2, 1, 0}),
              ElementsAre(2, 3));
}

TEST(MaskSelectorTest, ABlockThatIsNotResidentIsTakenAsAWhole) {
  MaskSelector selector;
  // Blocks of two; the second is resident. Root mean squares of the others: 5 and 4.3.
  const float values[] = {7, 1, 2, 6, 4, 4.6f};
  EXPECT_THAT(Select(selector, values, {.kept = 3, .gamma = 0.99}, {1}, 2), ElementsAre(0, 1, 3));
  EXPECT_THAT(Select(selector, values, {.kept = 5, .gamma = 0.99}, {1}, 2),
              ElementsAre(0, 1, 3, 4, 5));
  EXPECT_THAT(Select(selector, values, {.kept = 2, .gamma = 0.3}, {1}, 2), ElementsAre(2, 3));
  // An exempt unit of such a block counts by itself, and in the mean of the others: here it lifts
  // its neighbour (1) to 5, over the shared 4.5 of the next block.
  EXPECT_THAT(Select(selector, values, {.kept = 2, .gamma = 0.1, .fixed_top_n = 1}, {1}, 2),
              ElementsAre(0, 3));
  EXPECT_THAT(Select(selector, values, {.kept = 3, .gamma = 0.99, .fixed_top_n = 1}, {}, 2),
              ElementsAre(0, 1, 2));
  // Exactly `kept` units are taken: the last block may be cut.
  EXPECT_THAT(Select(selector, values, {.kept = 4, .gamma = 0.99}, {1}, 2),
              ElementsAre(0, 1, 3, 4));
  // Masks that do not look at the cache do not look at blocks either.
  EXPECT_THAT(Select(selector, values, {.kept = 2}, {1}, 2), ElementsAre(0, 3));
}

TEST(MaskSelectorTest, TheLargestFloatsShareAFiniteScore) {
  MaskSelector selector;
  const float top = std::numeric_limits<float>::max();
  const float values[] = {top, top, 1e9f, 2e9f, -top, 3};
  EXPECT_THAT(Select(selector, values, {.kept = 2, .gamma = 0}, {1}, 2), ElementsAre(2, 3));
  EXPECT_THAT(Select(selector, values, {.kept = 2, .gamma = 0.5}, {1}, 2), ElementsAre(0, 1));
}

TEST(MaskSelectorTest, NanAndInfinityCountAsTheLargest) {
  MaskSelector selector;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float values[] = {1, nan, 3, -std::numeric_limits<float>::infinity()};
  EXPECT_THAT(Select(selector, values, {.kept = 2}), ElementsAre(1, 3));
}

TEST(MaskSelectorTest, AgreesWithSortingOnRandomScores) {
  std::mt19937 rng(3);
  MaskSelector selector;
  for (int round = 0; round < 200; ++round) {
    const uint32_t n = 1 + rng() % 100;
    std::vector<float> values(n);
    for (float& v : values) v = static_cast<float>(static_cast<int>(rng() % 21) - 10);
    std::vector<uint32_t> order(n);
    for (uint32_t i = 0; i < n; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
      return std::fabs(values[a]) > std::fabs(values[b]);
    });
    order.resize(1 + rng() % n);
    std::sort(order.begin(), order.end());
    ASSERT_EQ(Select(selector, values, {.kept = static_cast<uint32_t>(order.size())}), order);
  }
}

}  // namespace tidegate::pruning_test
