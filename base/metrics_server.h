// Serves Prometheus text over HTTP at /metrics, with tidegate_build_info and process_* already in
// it.
//
// Wraps prometheus-cpp, whose constructors throw: this is the only file that catches.
// Not here: which metrics a process has (server/metrics.h, weightstore/store_metrics.h), access
// control (bind to an address that only the collector reaches). Threads: Create() and the
// destructor belong to one owner, everything else may be called by anybody. Scrapes run on two
// threads of the library, one after the other.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "prometheus/collectable.h"

namespace prometheus {
class Exposer;
}

namespace tidegate {

class MetricsServer {
 public:
  // Listens on "ADDRESS:PORT" with a numeric address ("127.0.0.1:9464", "[::1]:9464"); port 0 takes
  // a free one. `build_labels` are added to version, revision and compiler of tidegate_build_info.
  // Errors: INVALID_ARGUMENT for another form, UNAVAILABLE when the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Create(
      const std::string& address, const std::map<std::string, std::string>& build_labels = {});
  // Returns when no scrape runs any more.
  ~MetricsServer();
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  // The one really bound.
  uint16_t port() const { return port_; }
  // Host as given, port as bound: "127.0.0.1:41873".
  const std::string& address() const { return address_; }

  // Adds what `collectable` gives to each scrape. What it refers to must stay until this server is
  // destroyed.
  void RegisterCollectable(std::shared_ptr<prometheus::Collectable> collectable);

  // The page as text, as a scrape gives it but without the library's own exposer_* families.
  std::string Render() const;

 private:
  MetricsServer() = default;

  mutable Mutex mutex_;
  std::vector<std::shared_ptr<prometheus::Collectable>> collectables_ ABSL_GUARDED_BY(mutex_);
  uint16_t port_ = 0;
  std::string address_;
  // Destroyed before everything else, so that no scrape meets a dead collectable.
  std::unique_ptr<prometheus::Exposer> exposer_;
};

}  // namespace tidegate
