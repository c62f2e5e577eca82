// Builds the families that a prometheus::Collectable gives to one scrape, from values that somebody
// else keeps. Every sample starts with the page's constant labels.
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "prometheus/metric_family.h"

namespace tidegate {

class MetricsPage {
 public:
  using Label = prometheus::ClientMetric::Label;
  struct Sample {
    std::vector<Label> labels;  // besides the constant ones
    double value = 0;
  };

  explicit MetricsPage(std::vector<Label> constant_labels)
      : constant_labels_(std::move(constant_labels)) {}

  void Counters(const std::string& name, const std::string& help,
                const std::vector<Sample>& samples);
  void Gauges(const std::string& name, const std::string& help, const std::vector<Sample>& samples);
  // One sample without labels of its own.
  void Counter(const std::string& name, const std::string& help, double value);
  void Gauge(const std::string& name, const std::string& help, double value);

  // `counts[i]` observations in (bounds[i-1], bounds[i]], the last element those above all bounds.
  // REQUIRES: counts.size() == bounds.size() + 1.
  void Histogram(const std::string& name, const std::string& help, std::span<const double> bounds,
                 std::span<const uint64_t> counts, double sum);

  std::vector<prometheus::MetricFamily> Take() && { return std::move(families_); }

 private:
  void Add(const std::string& name, const std::string& help, prometheus::MetricType type,
           const std::vector<Sample>& samples);

  const std::vector<Label> constant_labels_;
  std::vector<prometheus::MetricFamily> families_;
};

}  // namespace tidegate
