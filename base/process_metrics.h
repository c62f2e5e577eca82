// The process_* metrics that Prometheus client libraries agree on, read from /proc/self at every
// scrape: CPU seconds, resident memory, open and allowed file descriptors, start time, major page
// faults.
//
// A value that cannot be read (no /proc) leaves its metric out. Threads: Collect() may run on any.
#pragma once

#include <string>
#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace tidegate {

class ProcessMetrics : public prometheus::Collectable {
 public:
  // `proc` holds self/stat, self/limits, self/fd and stat, as the kernel writes them (proc(5)).
  explicit ProcessMetrics(std::string proc = "/proc") : proc_(std::move(proc)) {}

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  std::string proc_;
};

}  // namespace tidegate
