#include "server/metrics_tracing.h"

#include "base/metrics_page.h"

namespace tidegate {

std::vector<prometheus::MetricFamily> TracingMetrics::Collect() const {
  MetricsPage page({});
  page.Counters("tidegate_traced_requests_total",
                "Requests whose spans were sent to the collector, or dropped.",
                {{{{"result", "exported"}}, static_cast<double>(stats_->exported)},
                 {{{"result", "dropped"}}, static_cast<double>(stats_->dropped)}});
  return std::move(page).Take();
}

}  // namespace tidegate
