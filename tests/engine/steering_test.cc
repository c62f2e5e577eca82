#include "engine/steering.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace tidegate::steering_test {

using ::testing::HasSubstr;

// Nothing pruned, then five points of 1 to 5 % loss.
std::vector<LadderPoint> Ladder() {
  std::vector<LadderPoint> ladder(6);
  for (size_t i = 1; i < ladder.size(); ++i) {
    const auto n = static_cast<double>(i);
    ladder[i].index = static_cast<uint32_t>(i);
    ladder[i].density = ladder[i].least_density = 1 - n / 10;
    ladder[i].gamma = 0.2;
    ladder[i].perplexity_increase = n / 100;
    ladder[i].flash_bytes_per_token = 1000 - 100 * n;
  }
  ladder[0].flash_bytes_per_token = 1000;
  return ladder;
}

Steering Make(const SteeringOptions& options, const PruningBounds& bounds = {}) {
  auto steering = Steering::Create(options, bounds, Ladder());
  EXPECT_TRUE(steering.ok()) << steering.status();
  return *std::move(steering);
}

std::string Error(const SteeringOptions& options, const PruningBounds& bounds) {
  const auto steering = Steering::Create(options, bounds, Ladder());
  EXPECT_EQ(steering.status().code(), absl::StatusCode::kFailedPrecondition);
  return std::string(steering.status().message());
}

TEST(Steering, AnAllowedLossChoosesTheFastestPointWithinIt) {
  const struct {
    double allowed;
    size_t position;
  } cases[] = {{0, 0}, {0.009, 0}, {0.01, 1}, {0.034, 3}, {1, 5}};
  for (const auto& c : cases) {
    Steering steering = Make({.max_perplexity_increase = c.allowed});
    EXPECT_EQ(steering.point().index, c.position) << c.allowed;
    for (int i = 0; i < 1000; ++i) steering.OnRound(1e-6);
    EXPECT_EQ(steering.point().index, c.position) << "no rate is wanted";
  }
}

TEST(Steering, ATargetMovesWithinTheAllowedLoss) {
  Steering steering = Make({.target_tokens_per_second = 10, .max_perplexity_increase = 0.03});
  EXPECT_EQ(steering.point().index, 0u);  // the most accurate first
  for (int i = 0; i < 1000; ++i) steering.OnRound(1);
  EXPECT_EQ(steering.point().index, 3u);
  const SteeringStats stats = steering.stats();
  EXPECT_EQ(stats.points, 4u);
  EXPECT_EQ(stats.position, 3u);
  EXPECT_EQ(stats.moves, 3u);
  EXPECT_DOUBLE_EQ(stats.density, 0.7);
  EXPECT_DOUBLE_EQ(stats.predicted_perplexity_increase, 0.03);
  EXPECT_DOUBLE_EQ(stats.tokens_per_second, 1);
  EXPECT_DOUBLE_EQ(stats.target_tokens_per_second, 10);
}

TEST(Steering, SaysOnceThatATargetIsOutOfReach) {
  Steering steering = Make({.target_tokens_per_second = 10, .max_perplexity_increase = 0.03});
  const auto log_of = [&](double seconds) {
    testing::internal::CaptureStderr();
    for (int i = 0; i < 2000; ++i) steering.OnRound(seconds);
    return testing::internal::GetCapturedStderr();
  };
  const std::string slow = log_of(0.5);
  EXPECT_THAT(slow, HasSubstr("--target-tokens-per-second 10 is out of reach: 2 tokens"));
  EXPECT_THAT(slow, HasSubstr("density 0.7; lower the target, raise --max-perplexity-increase or "
                              "give the store more memory"));
  EXPECT_EQ(std::count(slow.begin(), slow.end(), '\n'), 1);
  EXPECT_EQ(log_of(0.5), "");
  const std::string fast = log_of(0.01);
  EXPECT_THAT(fast, HasSubstr("--target-tokens-per-second 10 is reached again"));
  EXPECT_EQ(std::count(fast.begin(), fast.end(), '\n'), 1);
}

TEST(Steering, StaysWithinTheServersBounds) {
  PruningBounds bounds;
  bounds.density_min = 0.75f;
  bounds.density_max = 0.95f;
  const Steering steering = Make({.max_perplexity_increase = 1}, bounds);
  EXPECT_DOUBLE_EQ(steering.point().density, 0.8);
  EXPECT_EQ(steering.stats().points, 2u);
  EXPECT_EQ(steering.stats().position, 2u) << "of the profile, whatever is left out before it";
}

TEST(Steering, NoLayerIsPrunedBelowTheLeastDensity) {
  std::vector<LadderPoint> ladder = Ladder();
  ladder[4].least_density = 0.45;  // of 0.6 on average
  PruningBounds bounds;
  bounds.density_min = 0.46f;
  const SteeringOptions options = {.max_perplexity_increase = 1};
  auto steering = Steering::Create(options, bounds, ladder);
  ASSERT_TRUE(steering.ok()) << steering.status();
  EXPECT_EQ(steering->stats().points, 5u);
  EXPECT_EQ(steering->point().index, 5u);
  bounds.density_min = 0.45f;
  steering = Steering::Create(options, bounds, ladder);
  ASSERT_TRUE(steering.ok()) << steering.status();
  EXPECT_EQ(steering->stats().points, 6u);
}

TEST(Steering, ErrorsSayWhatLeavesNothing) {
  PruningBounds bounds;
  bounds.density_min = 0.96f;
  bounds.density_max = 0.97f;
  EXPECT_THAT(Error({.max_perplexity_increase = 1}, bounds), HasSubstr("densities from 0.96"));
  bounds = {};
  bounds.density_max = 0.9f;
  EXPECT_THAT(Error({.max_perplexity_increase = 0.005}, bounds),
              HasSubstr("--max-perplexity-increase 0.005 (0.5 %): the most accurate point of the "
                        "profile within the bounds costs 1 %"));
}

TEST(Steering, PointsAreInUnitsOfTheModel) {
  store::v1::Profile profile;
  store::v1::OperatingPoint& from = *profile.add_ladder();
  from.set_density(0.5);
  from.set_gamma(0.25);
  from.set_protected_share(0.75);
  for (const double density : {0.4, 0.6}) from.add_layer_densities(density);
  *profile.add_ladder() = from;
  ModelConfig config;
  config.layer_count = 2;
  config.hidden_size = 256;
  config.intermediate_size = 1024;
  const std::vector<LadderPoint> ladder = LadderOf(profile, config);
  ASSERT_EQ(ladder.size(), 2u);
  EXPECT_EQ(ladder[0].index, 0u);
  EXPECT_EQ(ladder[1].index, 1u);
  EXPECT_EQ(ladder[0].least_density, 0.4);
  const RowPruning step = ladder[0].Pruning(0.5);
  EXPECT_EQ(step.gamma, 0.5);
  EXPECT_EQ(step.protected_share, 0.75);
  const KeptCounts first = KeptAt(0.4, 256, 1024), second = KeptAt(0.6, 256, 1024);
  EXPECT_EQ(step.Kept(0).input, first.input);
  EXPECT_EQ(step.Kept(1).hidden, second.hidden);
  EXPECT_EQ(step.MeanKept()[0], (first.input + second.input) / 2.0);
}

}  // namespace tidegate::steering_test
