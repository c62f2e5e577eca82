#include "measure/operating_points.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace tidegate::operating_points_test {

using ::testing::DoubleEq;
using ::testing::ElementsAre;

MeasuredPoint Point(double increase, double bytes) {
  return {.candidate = {}, .perplexity_increase = increase, .flash_bytes = bytes};
}

std::vector<double> Bytes(const std::vector<MeasuredPoint>& points) {
  std::vector<double> bytes;
  for (const MeasuredPoint& point : points) bytes.push_back(point.flash_bytes);
  return bytes;
}

TEST(OperatingPoints, FrontIsWhatNoOtherBeats) {
  const std::vector<MeasuredPoint> points = {Point(0.05, 10), Point(0.01, 50), Point(0.02, 60),
                                             Point(0.01, 45), Point(0.03, 30), Point(0.04, 30),
                                             Point(0, 90)};
  EXPECT_THAT(Bytes(ParetoPoints(points)), ElementsAre(90, 45, 30, 10));
  EXPECT_TRUE(ParetoPoints({}).empty());
}

TEST(OperatingPoints, BytesAreComparedAtEqualLoss) {
  const std::vector<MeasuredPoint> front = {Point(-0.001, 100), Point(0.1, 50), Point(0.2, 25)};
  const std::vector<MeasuredPoint> dense = {Point(0, 100)};
  EXPECT_DOUBLE_EQ(MeanLogBytes(dense, front), std::log(100));
  // Half as much everywhere.
  const std::vector<MeasuredPoint> half = {Point(0, 50), Point(0.1, 25), Point(0.2, 12.5)};
  EXPECT_DOUBLE_EQ(MeanLogBytes(half, front), std::log(50 * 25 * 12.5) / 3);
  // Points beside each other on one curve are as good as each other; what loses more does not
  // count.
  const std::vector<MeasuredPoint> other = {Point(0, 100), Point(0.05, 100 / std::sqrt(2.0)),
                                            Point(0.15, 50 / std::sqrt(2.0)), Point(0.3, 12.5),
                                            Point(0.12, 90)};
  EXPECT_NEAR(MeanLogBytes(other, front), std::log(100 * 50 * 25) / 3, 1e-12);
}

TEST(OperatingPoints, ThinningKeepsTheEndsAndTheSpread) {
  std::vector<MeasuredPoint> points;
  for (const double bytes : {100, 98, 64, 60, 32, 31, 16})
    points.push_back(Point(1 / bytes, bytes));
  ThinPoints(points, 4);
  EXPECT_EQ(points.size(), 4u);
  EXPECT_EQ(points.front().flash_bytes, 100);
  EXPECT_EQ(points.back().flash_bytes, 16);
  for (size_t i = 1; i < points.size(); ++i) {
    EXPECT_GT(points[i - 1].flash_bytes, 1.4 * points[i].flash_bytes);
  }
  // Of two that read about the same, the much more accurate one.
  std::vector<MeasuredPoint> pair = {Point(0, 100), Point(0.02, 50.1), Point(0.04, 50),
                                     Point(0.06, 25)};
  ThinPoints(pair, 3);
  EXPECT_THAT(Bytes(pair), ElementsAre(100, 50.1, 25));
  ThinPoints(points, 9);
  EXPECT_EQ(points.size(), 4u);
}

// A model of a model: losses grow with what is left out, gamma and low shares trade them for bytes.
// What the layers' densities give is said by `by_layer`, a factor on the loss.
class World {
 public:
  absl::StatusOr<MeasuredPoint> Measure(const Candidate& c) {
    ++calls;
    const double trade = (1 - c.gamma) * (1.2 - c.protected_share);
    MeasuredPoint point = {.candidate = c};
    point.perplexity_increase = std::pow(1 - c.density, 2) * (1 + trade);
    if (!c.layer_densities.empty()) point.perplexity_increase *= by_layer;
    point.flash_bytes = 1000 * c.density * c.density * (1 - 0.4 * trade);
    return point;
  }
  absl::StatusOr<FoundPoints> Search(const PointSearch& search) {
    calls = skipped = 0;
    return SearchPoints(
        search, [this](const Candidate& c) { return Measure(c); },
        [this](size_t n) { skipped += n; });
  }

  double by_layer = 1;
  size_t calls = 0, skipped = 0;
};

const PointSearch kSearch = {.densities = {0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1},
                             .gammas = {0.2, 0.5, 1},
                             .protected_shares = {0.75, 0.5},
                             .max_increase = 0.1,
                             .points = 6,
                             .layer_densities = nullptr};

TEST(OperatingPoints, SearchStopsBeyondTheLimitAndAccountsForEveryCall) {
  World world;
  const auto found = world.Search(kSearch);
  ASSERT_TRUE(found.ok());
  EXPECT_LT(world.calls, 30u);
  EXPECT_EQ(world.calls + world.skipped, SearchCalls(kSearch));
  ASSERT_FALSE(found->front.empty());
  EXPECT_LE(found->front.size(), kSearch.points);
  EXPECT_TRUE(found->trials.empty());
  for (size_t i = 0; i < found->front.size(); ++i) {
    EXPECT_LE(found->front[i].perplexity_increase, 0.1);
    if (i == 0) continue;
    EXPECT_GT(found->front[i].perplexity_increase, found->front[i - 1].perplexity_increase);
    EXPECT_LT(found->front[i].flash_bytes, found->front[i - 1].flash_bytes);
  }
}

TEST(OperatingPoints, DensitiesByLayerAreTakenWhereTheyAreBetter) {
  PointSearch search = kSearch;
  search.layer_densities = [](double mean) { return std::vector<double>(3, mean); };
  World world;
  for (const double factor : {0.8, 1.2}) {
    world.by_layer = factor;
    const auto found = world.Search(search);
    ASSERT_TRUE(found.ok());
    EXPECT_EQ(world.calls + world.skipped, SearchCalls(search));
    EXPECT_FALSE(found->trials.empty());
    for (const LayerTrial& trial : found->trials) {
      EXPECT_TRUE(trial.uniform.candidate.layer_densities.empty());
      EXPECT_THAT(
          trial.by_layer.candidate.layer_densities,
          ElementsAre(DoubleEq(trial.uniform.candidate.density), ::testing::_, ::testing::_));
    }
    for (const MeasuredPoint& point : found->front) {
      EXPECT_EQ(point.candidate.layer_densities.empty(), factor > 1);
    }
  }
}

TEST(OperatingPoints, SearchEndsWithTheFirstFailure) {
  const auto found = SearchPoints(
      kSearch, [](const Candidate&) { return absl::DataLossError("torn"); }, [](size_t) {});
  EXPECT_EQ(found.status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace tidegate::operating_points_test
