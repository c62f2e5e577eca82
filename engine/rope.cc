#include "engine/rope.h"

#include <algorithm>
#include <cmath>

namespace tidegate {
namespace {

constexpr double kTwoPi = 6.283185307179586;

// The pair that turns `turns` times within the original context, as a real number.
double PairThatTurns(double turns, double base, uint32_t dims, double original_context) {
  return dims * std::log(original_context / (turns * kTwoPi)) / (2 * std::log(base));
}

// How much of each pair is stretched: from 0 up to pair `first` to 1 from pair `last`.
struct Ramp {
  double first = 0, last = 0;
  double At(uint32_t pair) const {
    return std::clamp((pair - first) / std::max(0.001, last - first), 0.0, 1.0);
  }
};

// With the whole numbers and bounds of the authors' code.
Ramp YarnRamp(double base, uint32_t dims, const RopeStretch& stretch) {
  const double first =
      std::floor(PairThatTurns(stretch.beta_fast, base, dims, stretch.original_context));
  const double last =
      std::ceil(PairThatTurns(stretch.beta_slow, base, dims, stretch.original_context));
  return {std::max(0.0, first), std::min(dims - 1.0, last)};
}

}  // namespace

RopeTable MakeRopeTable(double base, uint32_t dims, const float* divisors,
                        const RopeStretch& stretch, double magnitude) {
  RopeTable table = {.frequencies = std::vector<double>(dims / 2), .magnitude = magnitude};
  const bool yarn = stretch.kind == RopeStretch::Kind::kYarn;
  const Ramp ramp = yarn ? YarnRamp(base, dims, stretch) : Ramp();
  for (uint32_t i = 0; i < dims / 2; ++i) {
    double& frequency = table.frequencies[i];
    frequency = std::pow(base, -2.0 * i / dims);
    if (divisors != nullptr) frequency /= divisors[i];
    if (stretch.kind == RopeStretch::Kind::kLinear) frequency /= stretch.factor;
    if (yarn) {
      const double share = ramp.At(i);
      frequency = frequency / stretch.factor * share + frequency * (1 - share);
    }
  }
  if (yarn) table.magnitude *= 1 + 0.1 * std::log(stretch.factor);
  return table;
}

void Rotations::Append(const RopeTable& table, uint32_t first_position, uint32_t count) {
  pairs_ = table.frequencies.size();
  for (size_t t = 0; t < count; ++t) {
    for (size_t i = 0; i < pairs_; ++i) {
      const double angle = static_cast<double>(first_position + t) * table.frequencies[i];
      turns_.push_back({static_cast<float>(table.magnitude * std::cos(angle)),
                        static_cast<float>(table.magnitude * std::sin(angle))});
    }
  }
}

void Rotations::Rotate(RopePairs pairs, uint32_t index, float* heads, uint32_t head_count,
                       uint32_t head_size) const {
  const Turn* turns = turns_.data() + index * pairs_;
  const bool adjacent = pairs == RopePairs::kAdjacent;
  const size_t step = adjacent ? 2 : 1;        // from pair to pair
  const size_t apart = adjacent ? 1 : pairs_;  // within one
  for (uint32_t head = 0; head < head_count; ++head) {
    float* pair = heads + size_t{head} * head_size;
    for (size_t i = 0; i < pairs_; ++i, pair += step) {
      const float a = pair[0], b = pair[apart];
      pair[0] = a * turns[i].cosine - b * turns[i].sine;
      pair[apart] = a * turns[i].sine + b * turns[i].cosine;
    }
  }
}

}  // namespace tidegate
