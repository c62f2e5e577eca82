#include "cli/interval_sums.h"

#include <algorithm>

namespace tidegate {
namespace {

constexpr size_t kMaxIntervals = 80;

}  // namespace

size_t IntervalSums::IntervalOf(double at) {
  while (at >= width_ * kMaxIntervals) {
    for (size_t i = 0; i < sums_.size(); i += 2) {
      sums_[i / 2] = sums_[i] + (i + 1 < sums_.size() ? sums_[i + 1] : 0);
    }
    sums_.resize((sums_.size() + 1) / 2);
    width_ *= 2;
  }
  const auto interval = static_cast<size_t>(std::max(at, 0.0) / width_);
  if (sums_.size() <= interval) sums_.resize(interval + 1);
  return interval;
}

void IntervalSums::Add(double at, double amount) {
  const size_t interval = IntervalOf(at);  // may move the array
  sums_[interval] += amount;
}

void IntervalSums::AddSpan(double from, double to, double value) {
  if (to <= from) return;
  const size_t last = IntervalOf(to);
  for (size_t i = IntervalOf(from); i <= last; ++i) {
    const double begin = std::max(from, static_cast<double>(i) * width_);
    const double end = std::min(to, static_cast<double>(i + 1) * width_);
    sums_[i] += value * std::max(0.0, end - begin);
  }
}

std::vector<std::pair<double, double>> IntervalSums::Means(double end) const {
  std::vector<std::pair<double, double>> means;
  for (size_t i = 0;; ++i) {
    const double begin = static_cast<double>(i) * width_;
    const double length = std::min(width_, end - begin);
    const bool rest = length < width_ / 2 && !means.empty();
    if (length <= 0 || rest) return means;
    means.emplace_back(begin + length / 2, (i < sums_.size() ? sums_[i] : 0) / length);
  }
}

}  // namespace tidegate
