#include "engine/expert_mlp.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tidegate {
namespace {

std::vector<ExpertShare> Choose(const std::vector<float>& logits, uint32_t used, bool normalise) {
  std::vector<ExpertShare> shares = {{9, 9}};  // What was there goes.
  ChooseExperts(logits, used, normalise, shares);
  return shares;
}

TEST(ChooseExpertsTest, TakesTheLargestByRisingNumber) {
  const auto shares = Choose({1, 4, -2, 3}, 2, false);
  ASSERT_EQ(shares.size(), 2u);
  EXPECT_EQ(shares[0].expert, 1u);
  EXPECT_EQ(shares[1].expert, 3u);
  const double total = std::exp(-3.0) + 1 + std::exp(-6.0) + std::exp(-1.0);
  EXPECT_NEAR(shares[0].weight, 1 / total, 1e-6);
  EXPECT_NEAR(shares[1].weight, std::exp(-1.0) / total, 1e-6);
}

TEST(ChooseExpertsTest, NormalisedWeightsSumUpToOne) {
  const auto shares = Choose({1, 4, -2, 3}, 2, true);
  EXPECT_NEAR(shares[0].weight, 1 / (1 + std::exp(-1.0)), 1e-6);
  EXPECT_NEAR(shares[0].weight + shares[1].weight, 1, 1e-6);
}

TEST(ChooseExpertsTest, TiesGoToTheSmallerNumberAndAllMayBeUsed) {
  const auto shares = Choose({2, 2, 2}, 2, false);
  EXPECT_EQ(shares[0].expert, 0u);
  EXPECT_EQ(shares[1].expert, 1u);
  EXPECT_NEAR(shares[1].weight, 1.0 / 3, 1e-6);
  EXPECT_EQ(Choose({5, 500, -500}, 3, false).size(), 3u);
}

TEST(ChooseExpertsTest, NotANumberIsTheLastChoice) {
  const auto shares = Choose({NAN, 1, 0}, 2, true);
  EXPECT_EQ(shares[0].expert, 1u);
  EXPECT_EQ(shares[1].expert, 2u);
}

}  // namespace
}  // namespace tidegate
