// What a SpanExporter has to tell Prometheus (names and meanings: docs/metrics.md). Thread-safe.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "prometheus/collectable.h"
#include "server/span_exporter.h"

namespace tidegate {

class TracingMetrics final : public prometheus::Collectable {
 public:
  explicit TracingMetrics(std::shared_ptr<const SpanStats> stats) : stats_(std::move(stats)) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::shared_ptr<const SpanStats> stats_;
};

}  // namespace tidegate
