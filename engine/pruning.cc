#include "engine/pruning.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "base/check.h"

namespace tidegate {

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

double WarmUpGamma(double gamma, uint32_t generated_index) {
  return 1 - (1 - gamma) * (1 - std::pow(gamma, generated_index / 4.0));
}

float MaskSelector::Threshold(size_t k) {
  sorted_ = scores_;
  std::nth_element(sorted_.begin(), sorted_.begin() + static_cast<ptrdiff_t>(k - 1), sorted_.end(),
                   std::greater<>());
  return sorted_[k - 1];
}

void MaskSelector::Penalise(const MaskParams& params, std::span<const ResidencyEntry> residency,
                            uint32_t units_per_block) {
  const float exempt = params.fixed_top_n == 0
                           ? std::numeric_limits<float>::infinity()
                           : Threshold(std::min<size_t>(params.fixed_top_n, scores_.size()));
  const auto gamma = static_cast<float>(params.gamma);
  for (size_t block = 0, p = 0; p < scores_.size(); ++block) {
    const size_t end = std::min(p + units_per_block, scores_.size());
    if (residency[block].load(std::memory_order_relaxed) != 0) {
      p = end;
      continue;
    }
    for (; p < end; ++p) {
      if (scores_[p] < exempt) scores_[p] *= gamma;
    }
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
    for (uint32_t p = 0; p < count; ++p) positions_[p] = p;
    return positions_;
  }
  scores_.resize(count);
  for (size_t p = 0; p < count; ++p) {
    const float score = std::fabs(values[unit_at.empty() ? p : unit_at[p]]);
    // The comparison is false for NaN: it must not reach an ordering.
    scores_[p] =
        score <= std::numeric_limits<float>::max() ? score : std::numeric_limits<float>::max();
  }
  if (params.gamma < 1) Penalise(params, residency, units_per_block);
  const float threshold = Threshold(params.kept);
  const auto above = static_cast<size_t>(std::count_if(
      scores_.begin(), scores_.end(), [&](float score) { return score > threshold; }));
  size_t ties = params.kept - above;
  size_t n = 0;
  for (uint32_t p = 0; p < count; ++p) {
    if (scores_[p] > threshold) {
      positions_[n++] = p;
    } else if (scores_[p] == threshold && ties > 0) {
      positions_[n++] = p;
      --ties;
    }
  }
  DCHECK(n == params.kept);
  return positions_;
}

}  // namespace tidegate
