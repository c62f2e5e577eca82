// A quantity over the time of a run in a bounded number of equal intervals: when the run outgrows
// them, each two neighbours become one. Pure; owned by one thread.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace tidegate {

class IntervalSums {
 public:
  // Something that happened at a moment, such as tokens that came. Seconds since the start, >= 0.
  void Add(double at, double amount);
  // Something that had `value` from one moment to another, such as the number of open streams.
  void AddSpan(double from, double to, double value);

  // Middle of an interval, and its mean: of amounts per second, of values over the time. The last
  // interval ends at `end`; a short rest is left out. For plots.
  std::vector<std::pair<double, double>> Means(double end) const;

 private:
  size_t IntervalOf(double at);

  double width_ = 0.25;  // seconds
  std::vector<double> sums_;
};

}  // namespace tidegate
