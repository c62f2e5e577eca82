// What a TlsServer has to tell Prometheus (names and meanings: docs/metrics.md). Thread-safe.
#pragma once

#include <memory>
#include <vector>

#include "base/tls.h"
#include "prometheus/collectable.h"

namespace tidegate {

class TlsMetrics final : public prometheus::Collectable {
 public:
  explicit TlsMetrics(std::shared_ptr<const TlsServer> tls) : tls_(std::move(tls)) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::shared_ptr<const TlsServer> tls_;
};

}  // namespace tidegate
