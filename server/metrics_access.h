// What access control and the audit log have to tell Prometheus (names and meanings:
// docs/metrics.md). Thread-safe.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "prometheus/collectable.h"
#include "server/access/access_control.h"
#include "server/access/audit_log.h"

namespace tidegate {

class AccessMetrics final : public prometheus::Collectable {
 public:
  // `audit` may be null.
  AccessMetrics(std::shared_ptr<const AccessControl> access, std::shared_ptr<const AuditLog> audit)
      : access_(std::move(access)), audit_(std::move(audit)) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::shared_ptr<const AccessControl> access_;
  const std::shared_ptr<const AuditLog> audit_;
};

}  // namespace tidegate
