#include "base/metrics_connections.h"

#include <utility>

#include "base/metrics_page.h"

namespace tidegate {
namespace {

double MetricNumber(uint64_t value) { return static_cast<double>(value); }

}  // namespace

std::vector<prometheus::MetricFamily> ConnectionMetrics::Collect() const {
  MetricsPage page({});
  page.Gauge("tidegate_connection_listening", "1 while new connections are accepted.",
             stats_->listening ? 1 : 0);
  page.Gauge("tidegate_connections", "Connections of clients.", stats_->connections);
  page.Gauge("tidegate_connections_throttled",
             "Connections that have to wait before they may send more.", stats_->throttled);
  page.Gauge("tidegate_unanswered_calls",
             "Calls begun without any answer yet, and ones that were cancelled so early.",
             stats_->unanswered_calls);
  page.Gauge("tidegate_open_calls", "Calls of every kind that are open.", stats_->open_calls);
  page.Counter("tidegate_connections_accepted_total", "Connections accepted.",
               MetricNumber(stats_->accepted));
  page.Counter("tidegate_connection_calls_total", "Calls that clients began.",
               MetricNumber(stats_->calls));
  page.Counter("tidegate_connection_calls_abandoned_total",
               "Calls that clients cancelled before any answer.",
               MetricNumber(stats_->abandoned_calls));
  page.Counter("tidegate_connection_relistens_total",
               "Times the listening socket had died and was replaced.",
               MetricNumber(stats_->relistened));
  std::vector<MetricsPage::Sample> refused, closed;
  for (size_t i = 0; i < kRefusals; ++i) {
    refused.push_back(
        {{{"reason", RefusalName(static_cast<Refusal>(i))}}, MetricNumber(stats_->refused[i])});
  }
  for (size_t i = 1; i < kCloseReasons; ++i) {  // 0: open ones
    closed.push_back({{{"reason", CloseReasonName(static_cast<CloseReason>(i))}},
                      MetricNumber(stats_->closed[i])});
  }
  page.Counters("tidegate_connections_refused_total", "Connections turned away, by limit.",
                refused);
  page.Counters("tidegate_connections_closed_total", "Connections ended, by reason.", closed);
  return std::move(page).Take();
}

}  // namespace tidegate
