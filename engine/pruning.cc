#include "engine/pruning.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "base/check.h"

namespace tidegate {
namespace {

// Finite. The comparison is false for NaN: it must not reach an ordering.
float Magnitude(float value) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  const float magnitude = std::fabs(value);
  return magnitude <= kLargest ? magnitude : kLargest;
}

// Gamma 0 means that every resident unit goes before every other one, and not that the others are
// all alike: of them too the largest are taken. Small beside any ratio of scores that means
// something, large enough that what it leaves of them can be told apart.
constexpr double kLeastGamma = 1e-30;

}  // namespace

DensitySplit SplitDensity(double density) {
  if (density >= 1) return {};
  const double logit = std::log(density / (1 - density));
  const double keep_input = 1 / (1 + std::exp(-(0.98499 * logit + 0.29976)));
  const double keep_hidden = 3 * density - 2 * keep_input;
  return {keep_input, std::clamp(keep_hidden, 0.0, 1.0)};
}

uint32_t KeptUnits(double keep, uint32_t count) {
  return std::clamp(static_cast<uint32_t>(std::floor(keep * count)), 1u, count);
}

KeptCounts KeptAt(double density, uint32_t inputs, uint32_t hidden) {
  const DensitySplit split = SplitDensity(density);
  return {KeptUnits(split.keep_input, inputs), KeptUnits(split.keep_hidden, hidden)};
}

double WarmUpGamma(double gamma, uint32_t generated_index) {
  return 1 - (1 - gamma) * (1 - std::pow(gamma, generated_index / 4.0));
}

std::array<double, kUnitKinds> RowPruning::MeanKept() const {
  if (layers.empty()) return {double(kept_input), double(kept_hidden)};
  std::array<double, kUnitKinds> sums = {0, 0};
  for (const KeptCounts& kept : layers) {
    sums[0] += kept.input;
    sums[1] += kept.hidden;
  }
  const auto count = static_cast<double>(layers.size());
  return {sums[0] / count, sums[1] / count};
}

// Scores are finite and not negative, so that their bits order as they do. A histogram of the
// leading bits finds the few that share the threshold's bin; only those are ordered.
float MaskSelector::Threshold(size_t k) {
  constexpr int kLowBits = 20;  // a bin is an eighth of a power of two
  std::array<uint32_t, 1u << (31 - kLowBits)> bins = {};
  const auto bin_of = [](float score) { return std::bit_cast<uint32_t>(score) >> kLowBits; };
  for (const float score : scores_) ++bins[bin_of(score)];
  size_t above = 0;
  uint32_t bin = static_cast<uint32_t>(bins.size()) - 1;
  for (; above + bins[bin] < k; --bin) above += bins[bin];
  candidates_.resize(scores_.size());
  size_t count = 0;
  for (const float score : scores_) {
    candidates_[count] = score;
    count += bin_of(score) == bin;
  }
  const auto nth = candidates_.begin() + static_cast<ptrdiff_t>(k - above - 1);
  std::nth_element(candidates_.begin(), nth, candidates_.begin() + static_cast<ptrdiff_t>(count),
                   std::greater<>());
  return *nth;
}

void MaskSelector::Penalise(const MaskParams& params, std::span<const ResidencyEntry> residency,
                            uint32_t units_per_block) {
  // The n-th largest score; nothing reaches the 0th.
  const auto largest = [this](size_t n) {
    return n == 0 ? std::numeric_limits<float>::infinity() : Threshold(std::min(n, scores_.size()));
  };
  const auto protected_n = static_cast<size_t>(params.protected_share * params.kept);
  float exempt = largest(params.fixed_top_n);
  const float exempt_block = protected_n <= params.fixed_top_n ? exempt : largest(protected_n);
  const auto gamma = static_cast<float>(std::max(params.gamma, kLeastGamma));
  if (units_per_block == 1) {
    exempt = std::min(exempt, exempt_block);
    // Without branches on residency or scores: they are as good as random.
    const float factors[] = {gamma, 1.0f};
    for (size_t p = 0; p < scores_.size(); ++p) {
      const float factor = factors[residency[p].load(std::memory_order_relaxed) != 0];
      scores_[p] *= scores_[p] < exempt ? factor : 1.0f;
    }
    return;
  }
  for (size_t block = 0, p = 0; p < scores_.size(); ++block, p += units_per_block) {
    if (residency[block].load(std::memory_order_relaxed) != 0) continue;
    const size_t end = std::min(p + units_per_block, scores_.size());
    double squares = 0;
    for (size_t i = p; i < end; ++i) squares += double{scores_[i]} * scores_[i];
    const auto mean = static_cast<float>(std::sqrt(squares / static_cast<double>(end - p)));
    const float shared = mean < exempt_block ? gamma * mean : mean;
    for (size_t i = p; i < end; ++i) scores_[i] = scores_[i] < exempt ? shared : scores_[i];
  }
}

void MaskSelector::Score(std::span<const float> values, std::span<const uint32_t> unit_at,
                         uint32_t first_unit) {
  scores_.resize(values.size());
  if (unit_at.empty()) {
    for (size_t p = 0; p < values.size(); ++p) scores_[p] = Magnitude(values[p]);
  } else {
    for (size_t p = 0; p < values.size(); ++p)
      scores_[p] = Magnitude(values[unit_at[p] - first_unit]);
  }
}

void ScoreBlocks(std::span<const float> values, std::span<const uint32_t> unit_at,
                 std::span<const uint32_t> positions, uint32_t units_per_block, uint32_t first_unit,
                 std::vector<WantedBlock>& blocks) {
  blocks.clear();
  uint64_t end = 0;  // of the last block, in positions; one division for each block
  for (const uint32_t position : positions) {
    if (position < end) continue;
    const uint32_t block = position / units_per_block;
    blocks.push_back({.block = block});
    end = (uint64_t{block} + 1) * units_per_block;
  }
  const auto energy = [&](size_t& i, uint32_t block) {
    const uint64_t block_end = (uint64_t{block} + 1) * units_per_block;
    double sum = 0;
    for (; i < positions.size() && positions[i] < block_end; ++i) {
      const uint32_t position = positions[i] - first_unit;
      const double value =
          Magnitude(values[unit_at.empty() ? position : unit_at[position] - first_unit]);
      sum += value * value;
    }
    return sum;
  };
  double largest = 0;
  size_t i = 0;
  for (const WantedBlock& wanted : blocks) largest = std::max(largest, energy(i, wanted.block));
  i = 0;
  for (WantedBlock& wanted : blocks) {
    const double share = largest > 0 ? energy(i, wanted.block) / largest : 0;
    wanted.score = static_cast<uint16_t>(std::lround(std::sqrt(share) * kScoreMax));
  }
}

std::span<const uint32_t> MaskSelector::Select(std::span<const float> values,
                                               const MaskParams& params,
                                               std::span<const uint32_t> unit_at,
                                               std::span<const ResidencyEntry> residency,
                                               uint32_t units_per_block) {
  const size_t count = values.size();
  CHECK(params.kept >= 1 && params.kept <= count);
  positions_.resize(params.kept);
  if (params.kept == count) {
    for (uint32_t p = 0; p < count; ++p) positions_[p] = params.first_unit + p;
    return positions_;
  }
  Score(values, unit_at, params.first_unit);
  if (params.gamma < 1) Penalise(params, residency, units_per_block);
  const float threshold = Threshold(params.kept);
  const auto above = static_cast<size_t>(std::count_if(
      scores_.begin(), scores_.end(), [&](float score) { return score > threshold; }));
  size_t ties = params.kept - above;
  positions_.resize(count);  // Every position is written; only those taken advance.
  size_t n = 0;
  for (uint32_t p = 0; p < count; ++p) {
    const bool tie = scores_[p] == threshold && ties > 0;
    positions_[n] = params.first_unit + p;
    n += scores_[p] > threshold || tie;
    ties -= tie;
  }
  positions_.resize(n);
  DCHECK(n == params.kept);
  return positions_;
}

}  // namespace tidegate
