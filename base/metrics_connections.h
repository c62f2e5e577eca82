// What a ConnectionGate has to tell Prometheus (names and meanings: docs/metrics.md). Both daemons
// publish it: the engine of its gRPC port, the store of its admin socket. Thread-safe.
#pragma once

#include <memory>
#include <vector>

#include "base/connection_gate.h"
#include "prometheus/collectable.h"

namespace tidegate {

class ConnectionMetrics final : public prometheus::Collectable {
 public:
  explicit ConnectionMetrics(std::shared_ptr<const GateStats> stats) : stats_(std::move(stats)) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::shared_ptr<const GateStats> stats_;
};

}  // namespace tidegate
