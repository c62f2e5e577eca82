#include "base/metrics_reload.h"

#include "base/metrics_page.h"

namespace tidegate {

std::vector<prometheus::MetricFamily> ReloadMetrics::Collect() const {
  MetricsPage page({});
  page.Counters("tidegate_config_reloads_total", "SIGHUPs answered, by what came of them.",
                {{{{"result", "ok"}}, static_cast<double>(stats_->succeeded)},
                 {{{"result", "failed"}}, static_cast<double>(stats_->failed)}});
  page.Gauge("tidegate_config_last_reload_success_timestamp_seconds",
             "Unix time of the last SIGHUP after which everything had been read; 0: none yet.",
             stats_->last_success_s);
  return std::move(page).Take();
}

}  // namespace tidegate
