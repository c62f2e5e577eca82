#include "cli/latency_histogram.h"

#include <algorithm>
#include <cmath>

namespace tidegate {
namespace {

constexpr double kSmallest = 1e-6, kLargest = 86400;  // seconds
constexpr double kWidth = 1.01;                       // of a bucket: its end over its beginning
constexpr size_t kPlotPoints = 300;

size_t BucketCount() {
  return static_cast<size_t>(std::ceil(std::log(kLargest / kSmallest) / std::log(kWidth))) + 1;
}

double EndOf(size_t bucket) {
  return kSmallest * std::pow(kWidth, static_cast<double>(bucket + 1));
}

}  // namespace

LatencyHistogram::LatencyHistogram() : buckets_(BucketCount()) {}

void LatencyHistogram::Add(double seconds) {
  seconds = std::max(seconds, 0.0);
  const double place = std::log(std::max(seconds, kSmallest) / kSmallest) / std::log(kWidth);
  ++buckets_[std::min(static_cast<size_t>(place), buckets_.size() - 1)];
  min_ = count_ == 0 ? seconds : std::min(min_, seconds);
  max_ = std::max(max_, seconds);
  sum_ += seconds;
  ++count_;
}

double LatencyHistogram::Percentile(double share) const {
  const double wanted = std::ceil(share * static_cast<double>(count_));
  const auto rank = std::max<uint64_t>(1, static_cast<uint64_t>(wanted));
  uint64_t seen = 0;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    seen += buckets_[i];
    // Of the bucket, its middle on the scale on which all are equally wide.
    if (seen >= rank) return std::clamp(EndOf(i) / std::sqrt(kWidth), min_, max_);
  }
  return max_;
}

std::vector<std::pair<double, double>> LatencyHistogram::Cumulative() const {
  if (count_ == 0) return {};
  std::vector<std::pair<double, double>> points = {{min_, 0.0}};
  const auto used = static_cast<size_t>(
      std::count_if(buckets_.begin(), buckets_.end(), [](uint64_t n) { return n > 0; }));
  const size_t stride = used / kPlotPoints + 1;
  uint64_t seen = 0;
  size_t at = 0;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    if (buckets_[i] == 0) continue;
    seen += buckets_[i];
    if (++at % stride != 0 || at == used) continue;
    points.emplace_back(std::clamp(EndOf(i), min_, max_),
                        static_cast<double>(seen) / static_cast<double>(count_));
  }
  points.emplace_back(max_, 1.0);
  return points;
}

}  // namespace tidegate
