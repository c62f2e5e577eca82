// The names that vLLM publishes its metrics under, for dashboards, gateways and autoscalers that
// know those: made of our own families at scrape time, without accounts of their own. Only
// quantities that mean the same are given (docs/metrics.md). Pure.
#pragma once

#include <string>
#include <vector>

#include "prometheus/metric_family.h"

namespace tidegate {

// What their labels need beyond our families.
struct VllmFacts {
  std::string model;                  // label model_name
  std::vector<std::string> adapters;  // ModelInfo::adapters
  double now_seconds = 0;             // since the epoch
};

// Families under vLLM's names, of those of a scrape.
std::vector<prometheus::MetricFamily> VllmFamilies(
    const std::vector<prometheus::MetricFamily>& families, const VllmFacts& facts);

}  // namespace tidegate
