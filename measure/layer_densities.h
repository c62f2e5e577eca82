// Densities that differ from layer to layer: where they cost least at a given mean. Pure.
#pragma once

#include <span>
#include <utility>
#include <vector>

namespace tidegate {

// What pruning one layer alone costs, in nats per token: scale * (1 - density)^power.
struct LayerCost {
  double scale = 0;
  double power = 1;  // above 1: costs grow faster than what is left out
};

// Fits measured (density, cost) pairs by least squares of the logarithms. REQUIRES: two different
// densities below 1 at least. Costs that are not above 0 count as tiny.
LayerCost FitLayerCost(std::span<const std::pair<double, double>> measured);

// By layer, the densities in [least, 1] whose mean is `mean` and whose costs have the smallest sum:
// where another bit of density would be worth the same in every layer. REQUIRES: 0 < least <= mean
// <= 1.
std::vector<double> AllocateDensities(std::span<const LayerCost> costs, double mean, double least);

}  // namespace tidegate
