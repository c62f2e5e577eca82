// What a scrape reads off the engine: state, load, totals, pruning, model. Thread-safe.
#pragma once

#include <optional>
#include <vector>

#include "base/mutex.h"
#include "engine/engine.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"
#include "prometheus/registry.h"

namespace tidegate {

class MetricsPage;

// Shared with the metrics server, which may outlive EngineMetrics. Between Attach(nullptr) and the
// next engine the last values stay.
class EngineCollector : public prometheus::Collectable {
 public:
  // `vllm_names`: what vLLM has too is given under its names as well.
  explicit EngineCollector(bool vllm_names) : vllm_names_(vllm_names) {}

  // What is counted as it happens goes in here (metrics.h); every series gets the label `model` at
  // scrape time.
  prometheus::Registry& registry() { return registry_; }

  // Not owned. nullptr returns when no scrape reads the engine any more.
  void Attach(const Engine* engine);

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  void Refresh() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddState(MetricsPage& page) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddLoad(MetricsPage& page) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddTotals(MetricsPage& page) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // For requests that leave pruning to the server.
  void AddPruning(MetricsPage& page) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddModel(MetricsPage& page) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const bool vllm_names_;
  prometheus::Registry registry_;
  mutable Mutex mutex_;
  const Engine* engine_ ABSL_GUARDED_BY(mutex_) = nullptr;
  // As of the last scrape; kept when the engine is gone, so that counters do not fall to 0.
  mutable EngineStats stats_ ABSL_GUARDED_BY(mutex_);
  mutable PruningParams defaults_ ABSL_GUARDED_BY(mutex_);
  mutable bool ready_ ABSL_GUARDED_BY(mutex_) = false;
  mutable std::optional<ModelInfo> model_info_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tidegate
