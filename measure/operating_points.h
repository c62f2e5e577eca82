// The search behind `tidegate profile`: which ways to prune are worth having, by what a given
// measurement says of each. Nothing here runs a model. Thread-compatible.
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"

namespace tidegate {

// A way to prune.
struct Candidate {
  double density = 1;
  double gamma = 1;
  double protected_share = 0;
  std::vector<double> layer_densities;  // mean: density; empty: the same everywhere
};

struct MeasuredPoint {
  Candidate candidate;
  double perplexity_increase = 0;  // over nothing pruned, a share; may be below 0 by chance
  double flash_bytes = 0;          // per token
  double flash_share = 0;          // the same, of the streamed weights
  double hit_rate = 0;
};

using MeasurePoint = std::function<absl::StatusOr<MeasuredPoint>(const Candidate&)>;

// Those that no other beats in both loss and bytes, from the most accurate to the one that reads
// least.
std::vector<MeasuredPoint> ParetoPoints(std::span<const MeasuredPoint> points);

// Drops inner points of a front until `count` are left. Each time it drops the cheapest one. The
// price of a point: log(bytes without it / bytes with it), times the width of the range of losses
// in which it is the best point. REQUIRES: count >= 2.
void ThinPoints(std::vector<MeasuredPoint>& points, size_t count);

// Mean of log(bytes) of `points` at the losses of `front` (0 for negative ones), interpolated
// between two points. The difference of two such means is the relative difference in bytes at equal
// loss. REQUIRES: `points` has one that loses nothing; `front` is not empty.
double MeanLogBytes(std::span<const MeasuredPoint> points, std::span<const MeasuredPoint> front);

struct PointSearch {
  std::vector<double> densities;         // falling
  std::vector<double> gammas;            // of the first search
  std::vector<double> protected_shares;  // the first with every gamma, the others around the best
  double max_increase = 0.1;             // a share
  size_t points = 8;
  // The densities by layer for a mean density; null: every layer has the same.
  std::function<std::vector<double>(double)> layer_densities;
};

// What was tried with densities by layer: the same otherwise.
struct LayerTrial {
  MeasuredPoint uniform, by_layer;
};

struct FoundPoints {
  std::vector<MeasuredPoint> front;  // within max_increase, at most `points`
  std::vector<LayerTrial> trials;
};

// At most this many calls of `measure`.
size_t SearchCalls(const PointSearch& search);

// For every gamma the densities downwards until the loss is well above the limit; then, around what
// is best so far, the other protected shares and densities by layer. on_skipped: called with the
// number of calls that are not needed.
absl::StatusOr<FoundPoints> SearchPoints(const PointSearch& search, const MeasurePoint& measure,
                                         const std::function<void(size_t)>& on_skipped);

}  // namespace tidegate
