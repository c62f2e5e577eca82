// What a Reloader has to tell Prometheus (names and meanings: docs/metrics.md). Both daemons
// publish it. Thread-safe.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "base/reloader.h"
#include "prometheus/collectable.h"

namespace tidegate {

class ReloadMetrics final : public prometheus::Collectable {
 public:
  explicit ReloadMetrics(std::shared_ptr<const ReloadStats> stats) : stats_(std::move(stats)) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::shared_ptr<const ReloadStats> stats_;
};

}  // namespace tidegate
