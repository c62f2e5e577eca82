// What the store process tells Prometheus: flash reads, the neuron cache, leases, the budget (names
// and meanings: docs/metrics.md). Reads the store's own counters at scrape time, so the store's
// thread pays nothing for it.
//
// Histogram buckets here are closed above (value <= le), as Prometheus defines them; the counts of
// one scrape are consistent with each other, those of different families may be a few events apart.
// Threads: Collect() may run on any thread.
#pragma once

#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"
#include "weightstore/store.h"
#include "weightstore/store_stats.h"

namespace tidegate {

class StoreMetrics : public prometheus::Collectable {
 public:
  // Both must outlive this object: register with a MetricsServer that is destroyed before the
  // store.
  //   server->RegisterCollectable(std::make_shared<StoreMetrics>(store->info(), store->stats()));
  StoreMetrics(const StoreInfo& info, const StoreStats& stats) : info_(info), stats_(stats) {}

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const StoreInfo& info_;
  const StoreStats& stats_;
};

}  // namespace tidegate
