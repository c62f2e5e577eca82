// Serves Prometheus text over HTTP at /metrics, with tidegate_build_info and process_* already in
// it.
//
// Pages are rendered one after the other on the handler thread of an HttpServer.
// Not here: HTTP (http_server.h), which metrics a process has (server/metrics.h,
// weightstore/store_metrics.h), who may read the page (HttpGuard). Threads: Create() and the
// destructor belong to one owner, everything else may be called by anybody.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/http_server.h"
#include "base/mutex.h"
#include "prometheus/collectable.h"

namespace tidegate {

// What answers a request instead, or nullopt. Any thread.
using HttpGuard = std::function<std::optional<HttpResponse>(const HttpRequest&)>;

class MetricsServer {
 public:
  // Listens where `address` says (listen_address.h): "127.0.0.1:9464", "[::1]:0", "unix:PATH".
  // `build_labels` are added to version, revision and compiler of tidegate_build_info.
  // With `tls`: over HTTPS. With `guard`: a request that it refuses gets its answer.
  // Errors: INVALID_ARGUMENT for another form, UNAVAILABLE when the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Create(
      const std::string& address, const std::map<std::string, std::string>& build_labels = {},
      std::shared_ptr<TlsServer> tls = {}, HttpGuard guard = {});
  // Returns when no scrape runs any more.
  ~MetricsServer() = default;
  MetricsServer(const MetricsServer&) = delete;
  MetricsServer& operator=(const MetricsServer&) = delete;

  // The one really bound; 0 for a Unix socket.
  uint16_t port() const { return http_->address().port; }
  // Host as given, port as bound: "127.0.0.1:41873".
  std::string address() const { return http_->address().ToString(); }

  // Adds what `collectable` gives to each scrape. What it refers to must stay until this server is
  // destroyed.
  void RegisterCollectable(std::shared_ptr<prometheus::Collectable> collectable);

  // The page as text, as a scrape gives it.
  std::string Render() const;

 private:
  MetricsServer() = default;

  mutable Mutex mutex_;
  std::vector<std::shared_ptr<prometheus::Collectable>> collectables_ ABSL_GUARDED_BY(mutex_);
  // Destroyed before everything else, so that no scrape meets a dead collectable.
  std::unique_ptr<HttpServer> http_;
};

}  // namespace tidegate
