// Against simulated plants: a token takes what computing and reading its point take.
#include "engine/ladder_controller.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace tidegate::ladder_controller_test {

// A drive and a processor. `noise`: standard deviation of a token's time, as a share.
class Plant {
 public:
  explicit Plant(double noise = 0) : noise_(noise) {}

  double Seconds(size_t point) {
    const double mean = compute_seconds + kBytes[point] / bytes_per_second;
    return std::max(mean * 0.2, mean * (1 + noise_ * normal_(random_)));
  }
  double Rate(size_t point) const {
    return 1 / (compute_seconds + kBytes[point] / bytes_per_second);
  }

  static inline const std::vector<double> kBytes = {500, 350, 250, 180, 120, 80};
  double compute_seconds = 0.02;
  double bytes_per_second = 1000;

 private:
  const double noise_;
  std::mt19937 random_{7};
  std::normal_distribution<double> normal_;
};

LadderController Make(double target, size_t points = Plant::kBytes.size()) {
  LadderController::Options options;
  options.target_tokens_per_second = target;
  options.flash_bytes.assign(Plant::kBytes.begin(),
                             Plant::kBytes.begin() + static_cast<ptrdiff_t>(points));
  return LadderController(options);
}

// How often the point changes in so many tokens; none may be skipped.
uint64_t Drive(LadderController& controller, Plant& plant, int tokens) {
  const uint64_t before = controller.moves();
  for (int i = 0; i < tokens; ++i) {
    const size_t from = controller.point();
    controller.OnToken(plant.Seconds(from));
    const size_t to = controller.point();
    EXPECT_LE(std::max(from, to) - std::min(from, to), 1u);
  }
  return controller.moves() - before;
}

// The most accurate point that is fast enough.
size_t Wanted(const Plant& plant, double target) {
  size_t point = 0;
  while (point + 1 < Plant::kBytes.size() && plant.Rate(point) < target) ++point;
  return point;
}

TEST(LadderController, FindsTheMostAccuratePointThatIsFastEnough) {
  for (const double target : {1.5, 2.4, 3.3, 4.5, 6.0, 8.5}) {
    Plant plant;
    LadderController controller = Make(target);
    Drive(controller, plant, 1000);
    EXPECT_EQ(controller.point(), Wanted(plant, target)) << target;
    EXPECT_GE(controller.tokens_per_second(), 0.97 * target) << target;
    EXPECT_EQ(Drive(controller, plant, 3000), 0u) << target;  // and stays there
  }
}

TEST(LadderController, DoesNotFlapInNoise) {
  Plant plant(0.3);
  LadderController controller = Make(4.5);
  Drive(controller, plant, 1000);
  int off = 0;
  const uint64_t before = controller.moves();
  for (int i = 0; i < 200; ++i) {
    Drive(controller, plant, 100);
    off += controller.point() != Wanted(plant, 4.5);
  }
  EXPECT_LE(controller.moves() - before, 20u);  // of 600 decisions
  EXPECT_LE(off, 60);
}

TEST(LadderController, FillsTheCacheBeforeItJudges) {
  LadderController controller = Make(2);
  for (int i = 0; i < 64; ++i) controller.OnToken(10);  // cold: slow
  EXPECT_EQ(controller.tokens_per_second(), 0);
  Plant plant;
  plant.bytes_per_second = 5000;
  Drive(controller, plant, 500);
  EXPECT_EQ(controller.point(), 0u);
  EXPECT_EQ(controller.moves(), 0u);
}

TEST(LadderController, StaysWithinTheLadder) {
  Plant plant;
  LadderController unreachable = Make(1000, 3);
  Drive(unreachable, plant, 1000);
  EXPECT_EQ(unreachable.point(), 2u);
  EXPECT_EQ(unreachable.moves(), 2u);
  LadderController easy = Make(0.01);
  Drive(easy, plant, 1000);
  EXPECT_EQ(easy.moves(), 0u);
  LadderController single = Make(1000, 1);
  Drive(single, plant, 1000);
  EXPECT_EQ(single.point(), 0u);
}

TEST(LadderController, KnowsWhenTheTargetIsOutOfReach) {
  Plant plant;
  LadderController controller = Make(4, 3);  // 3.7 at most
  Drive(controller, plant, 64 + 24 + 2 * (8 + 24));
  EXPECT_EQ(controller.point(), 2u);
  EXPECT_FALSE(controller.out_of_reach()) << "one window says little";
  Drive(controller, plant, 10 * 24);
  EXPECT_TRUE(controller.out_of_reach());
  plant.bytes_per_second = 1060;  // 3.9: within the band, not yet the target
  Drive(controller, plant, 500);
  EXPECT_TRUE(controller.out_of_reach());
  plant.bytes_per_second = 1200;
  Drive(controller, plant, 500);
  EXPECT_FALSE(controller.out_of_reach());
  LadderController reached = Make(3.5, 3);
  plant.bytes_per_second = 1000;
  Drive(reached, plant, 2000);
  EXPECT_EQ(reached.point(), 2u);
  EXPECT_FALSE(reached.out_of_reach());
}

TEST(LadderController, FollowsADriveThatGetsSlowAndFastAgain) {
  const double target = 3.3;
  Plant plant(0.05);
  LadderController controller = Make(target);
  Drive(controller, plant, 1000);
  EXPECT_EQ(controller.point(), Wanted(plant, target));
  plant.bytes_per_second = 400;
  Drive(controller, plant, 1000);
  EXPECT_EQ(controller.point(), Wanted(plant, target));
  EXPECT_GT(controller.point(), 3u);
  plant.bytes_per_second = 3000;
  Drive(controller, plant, 3000);
  EXPECT_EQ(controller.point(), 0u);
  plant.bytes_per_second = 1000;
  Drive(controller, plant, 1000);
  EXPECT_EQ(controller.point(), Wanted(plant, target));
}

// Bytes say that the points differ, but nothing is read: the rate is the processor's.
TEST(LadderController, GivesAccuracyBackWhereBytesDoNotMatter) {
  Plant plant;
  LadderController controller = Make(10);
  Drive(controller, plant, 1000);
  EXPECT_EQ(controller.point(), Plant::kBytes.size() - 1);
  plant.bytes_per_second = 1e9;
  plant.compute_seconds = 0.08;  // 12.5 tokens per second everywhere
  Drive(controller, plant, 20000);
  EXPECT_EQ(controller.point(), 0u);
}

TEST(LadderController, IgnoresTimesThatAreNone) {
  LadderController controller = Make(1000);
  for (int i = 0; i < 1000; ++i) {
    for (const double seconds : {0.0, -1.0, std::nan("")}) controller.OnToken(seconds);
  }
  EXPECT_EQ(controller.moves(), 0u);
  EXPECT_EQ(controller.tokens_per_second(), 0);
}

}  // namespace tidegate::ladder_controller_test
