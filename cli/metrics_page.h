// A page of Prometheus text, read over HTTP and looked up by name. What comes from a server is
// checked: a page has at most 16 MiB, and lines of no known form are stepped over.
//
// Not here: TLS, access control, what the names mean (docs/metrics.md). Plain data and free
// functions, thread-safe.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace tidegate {

class ReadMetrics {
 public:
  using Labels = std::map<std::string, std::string>;

  explicit ReadMetrics(std::string_view page);

  bool Has(const std::string& name) const { return series_.contains(name); }
  // Sum of the series of `name` that have all of `labels`; 0 where there is none.
  double Sum(const std::string& name, const Labels& labels = {}) const;
  // The value of `label` in a series of `name` whose value is not 0; "" if there is none.
  std::string LabelOf(const std::string& name, const std::string& label) const;
  // Of histogram `name`: upper bounds, the last one infinite, and observations at or below each,
  // summed over its series; ordered.
  std::vector<std::pair<double, double>> Buckets(const std::string& name) const;

 private:
  struct Series {
    Labels labels;
    double value = 0;
  };
  void Take(std::string_view line);

  std::map<std::string, std::vector<Series>> series_;
};

// The quantile `share` of what a histogram counted between two readings, interpolated in its
// bucket; the highest finite bound where it lies above; below 0 where nothing was counted. `before`
// may be empty: since the start.
double HistogramQuantile(const std::vector<std::pair<double, double>>& before,
                         const std::vector<std::pair<double, double>>& after, double share);

// GET /metrics of "HOST:PORT" or "unix:PATH", with a key unless it is "". UNAVAILABLE where nobody
// answers within `timeout`; other errors say what came instead of a page.
absl::StatusOr<std::string> FetchMetrics(const std::string& address,
                                         std::chrono::milliseconds timeout,
                                         const std::string& key = {});

}  // namespace tidegate
