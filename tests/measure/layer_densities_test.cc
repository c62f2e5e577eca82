#include "measure/layer_densities.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

namespace tidegate::layer_densities_test {

double Cost(const std::vector<LayerCost>& costs, const std::vector<double>& densities) {
  double sum = 0;
  for (size_t l = 0; l < costs.size(); ++l) {
    sum += costs[l].scale * std::pow(1 - densities[l], costs[l].power);
  }
  return sum;
}

double Mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

TEST(LayerDensities, FitRecoversAPowerLaw) {
  std::vector<std::pair<double, double>> measured;
  for (const double density : {0.8, 0.6, 0.4}) {
    measured.emplace_back(density, 0.7 * std::pow(1 - density, 2.5));
  }
  const LayerCost cost = FitLayerCost(measured);
  EXPECT_NEAR(cost.scale, 0.7, 1e-9);
  EXPECT_NEAR(cost.power, 2.5, 1e-9);
}

TEST(LayerDensities, FitTakesAnyCosts) {
  for (const double cost : {0.0, -1.0, 1e300}) {
    const LayerCost fitted =
        FitLayerCost(std::vector<std::pair<double, double>>{{0.8, cost}, {0.4, cost}});
    EXPECT_TRUE(std::isfinite(fitted.scale) && std::isfinite(fitted.power)) << cost;
    EXPECT_GT(fitted.power, 1) << cost;
  }
}

TEST(LayerDensities, EqualLayersGetTheSame) {
  const std::vector<double> densities =
      AllocateDensities(std::vector<LayerCost>(4, {0.3, 2}), 0.6, 0.1);
  for (const double density : densities) EXPECT_NEAR(density, 0.6, 1e-9);
}

TEST(LayerDensities, NoExchangeBetweenLayersIsBetter) {
  const std::vector<LayerCost> costs = {{3, 2}, {0.5, 3}, {0.1, 1.5}, {0.02, 4}, {0.5, 2}};
  for (const double mean : {0.95, 0.75, 0.5, 0.3, 0.1}) {
    const std::vector<double> densities = AllocateDensities(costs, mean, 0.1);
    EXPECT_NEAR(Mean(densities), mean, 1e-6);
    const double best = Cost(costs, densities);
    EXPECT_LE(best, Cost(costs, std::vector<double>(costs.size(), mean)) + 1e-9);
    for (size_t a = 0; a < costs.size(); ++a) {
      for (size_t b = 0; b < costs.size(); ++b) {
        std::vector<double> other = densities;
        const double change = std::min({0.01, 1 - other[a], other[b] - 0.1});
        other[a] += change;
        other[b] -= change;
        EXPECT_LE(best, Cost(costs, other) + 1e-9) << mean << " " << a << " " << b;
      }
    }
  }
}

TEST(LayerDensities, StaysInRange) {
  std::mt19937 random(5);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int i = 0; i < 200; ++i) {
    std::vector<LayerCost> costs(1 + i % 9);
    for (LayerCost& cost : costs) {
      cost = {std::pow(10, 12 * uniform(random) - 9), 1.05 + 10 * uniform(random)};
    }
    const double mean = 0.1 + 0.9 * uniform(random);
    const std::vector<double> densities = AllocateDensities(costs, mean, 0.1);
    EXPECT_NEAR(Mean(densities), mean, 1e-3);
    for (const double density : densities) {
      EXPECT_GE(density, 0.1);
      EXPECT_LE(density, 1);
    }
  }
}

}  // namespace tidegate::layer_densities_test
