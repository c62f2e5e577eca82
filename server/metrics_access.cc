#include "server/metrics_access.h"

#include "base/metrics_page.h"

namespace tidegate {

std::vector<prometheus::MetricFamily> AccessMetrics::Collect() const {
  const auto failures = [this](AuthFailure reason) {
    return static_cast<double>(access_->failures(reason));
  };
  MetricsPage page({});
  page.Counters("tidegate_auth_failures_total", "Calls turned away for their key, by reason.",
                {{{{"reason", "missing"}}, failures(AuthFailure::kMissing)},
                 {{{"reason", "invalid"}}, failures(AuthFailure::kInvalid)},
                 {{{"reason", "expired"}}, failures(AuthFailure::kExpired)},
                 {{{"reason", "scope"}}, failures(AuthFailure::kScope)}});
  page.Counter("tidegate_audit_lines_dropped_total",
               "Lines of the audit log that were not written.",
               audit_ == nullptr ? 0 : static_cast<double>(audit_->dropped()));
  return std::move(page).Take();
}

}  // namespace tidegate
