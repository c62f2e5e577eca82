#include "base/metrics_page.h"

#include <limits>

#include "base/check.h"

namespace tidegate {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

void MetricsPage::Counters(const std::string& name, const std::string& help,
                           const std::vector<Sample>& samples) {
  Add(name, help, MetricType::Counter, samples);
}

void MetricsPage::Gauges(const std::string& name, const std::string& help,
                         const std::vector<Sample>& samples) {
  Add(name, help, MetricType::Gauge, samples);
}

void MetricsPage::Counter(const std::string& name, const std::string& help, double value) {
  Add(name, help, MetricType::Counter, {Sample{{}, value}});
}

void MetricsPage::Gauge(const std::string& name, const std::string& help, double value) {
  Add(name, help, MetricType::Gauge, {Sample{{}, value}});
}

void MetricsPage::Histogram(const std::string& name, const std::string& help,
                            std::span<const double> bounds, std::span<const uint64_t> counts,
                            double sum) {
  CHECK(counts.size() == bounds.size() + 1);
  ClientMetric metric;
  metric.label = constant_labels_;
  uint64_t total = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    total += counts[i];
    const double bound = i < bounds.size() ? bounds[i] : std::numeric_limits<double>::infinity();
    metric.histogram.bucket.push_back({total, bound});
  }
  metric.histogram.sample_count = total;
  metric.histogram.sample_sum = sum;
  families_.push_back({name, help, MetricType::Histogram, {metric}});
}

void MetricsPage::Add(const std::string& name, const std::string& help, MetricType type,
                      const std::vector<Sample>& samples) {
  MetricFamily family{name, help, type, {}};
  for (const Sample& sample : samples) {
    ClientMetric metric;
    metric.label = constant_labels_;
    metric.label.insert(metric.label.end(), sample.labels.begin(), sample.labels.end());
    (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = sample.value;
    family.metric.push_back(std::move(metric));
  }
  families_.push_back(std::move(family));
}

}  // namespace tidegate
