#include "base/metrics_connections.h"

#include <gtest/gtest.h>

#include <map>

#include "prometheus/metric_family.h"

namespace tidegate::metrics_connections_test {

TEST(ConnectionMetrics, ShowWhatTheGateCounts) {
  auto stats = std::make_shared<GateStats>();
  stats->connections = 3;
  stats->refused[static_cast<size_t>(Refusal::kAddress)] = 5;
  stats->closed[static_cast<size_t>(CloseReason::kShed)] = 7;
  std::map<std::string, double> values;
  for (const prometheus::MetricFamily& family : ConnectionMetrics(stats).Collect()) {
    for (const prometheus::ClientMetric& metric : family.metric) {
      const std::string label = metric.label.empty() ? "" : metric.label[0].value;
      values[family.name + "/" + label] = metric.counter.value + metric.gauge.value;
    }
  }
  EXPECT_EQ(values.at("tidegate_connections/"), 3);
  EXPECT_EQ(values.at("tidegate_connections_refused_total/address"), 5);
  EXPECT_EQ(values.at("tidegate_connections_closed_total/shed"), 7);
  EXPECT_EQ(values.at("tidegate_connections_closed_total/evicted"), 0);
  EXPECT_FALSE(values.contains("tidegate_connections_closed_total/none"));
}

}  // namespace tidegate::metrics_connections_test
