#include "measure/layer_densities.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace tidegate {
namespace {

// Just above 1, so that the optimum is one point.
constexpr double kLeastPower = 1.05, kMostPower = 12;

// The density at which a layer's marginal cost, scale * power * (1 - d)^(power - 1), is `price`.
double DensityAt(const LayerCost& cost, double price, double least) {
  const double left_out = std::pow(price / (cost.scale * cost.power), 1 / (cost.power - 1));
  return std::clamp(1 - left_out, least, 1.0);
}

}  // namespace

LayerCost FitLayerCost(std::span<const std::pair<double, double>> measured) {
  CHECK(measured.size() >= 2);
  constexpr double kTiny = 1e-9;
  double sx = 0, sy = 0, sxx = 0, sxy = 0;
  for (const auto& [density, cost] : measured) {
    const double x = std::log(1 - density), y = std::log(std::max(cost, kTiny));
    sx += x;
    sy += y;
    sxx += x * x;
    sxy += x * y;
  }
  const auto n = static_cast<double>(measured.size());
  const double spread = n * sxx - sx * sx;
  LayerCost cost;
  cost.power = std::clamp((n * sxy - sx * sy) / spread, kLeastPower, kMostPower);
  cost.scale = std::exp((sy - cost.power * sx) / n);
  return cost;
}

std::vector<double> AllocateDensities(std::span<const LayerCost> costs, double mean, double least) {
  CHECK(!costs.empty() && least > 0 && least <= mean && mean <= 1);
  std::vector<double> densities(costs.size());
  const auto fill = [&](double log_price) {
    for (size_t l = 0; l < costs.size(); ++l) {
      densities[l] = DensityAt(costs[l], std::exp(log_price), least);
    }
    return std::accumulate(densities.begin(), densities.end(), 0.0) /
           static_cast<double>(costs.size());
  };
  // A higher price buys less density.
  double low = -60, high = 60;
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2;
    (fill(middle) > mean ? low : high) = middle;
  }
  fill(high);
  return densities;
}

}  // namespace tidegate
