// Latencies of any number of events in fixed memory: counts in buckets that are 1 % wide, from a
// microsecond to a day. Count, mean and extremes are exact, percentiles within half a percent.
// Pure; owned by one thread.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace tidegate {

class LatencyHistogram {
 public:
  LatencyHistogram();

  void Add(double seconds);  // negative: counts as 0

  uint64_t count() const { return count_; }
  // In seconds; 0 while nothing has been added.
  double mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }
  double min() const { return min_; }
  double max() const { return max_; }
  // The latency that this share of the events does not exceed, by nearest rank. REQUIRES: 0 <=
  // share <= 1.
  double Percentile(double share) const;
  // For plots: a latency, and the share of events that do not exceed it. From (min, 0) to (max, 1),
  // at most some hundred points.
  std::vector<std::pair<double, double>> Cumulative() const;

 private:
  std::vector<uint64_t> buckets_;
  uint64_t count_ = 0;
  double sum_ = 0, min_ = 0, max_ = 0;
};

}  // namespace tidegate
