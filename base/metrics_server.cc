#include "base/metrics_server.h"

#include <utility>

#include "base/build_info_values.h"
#include "base/listen_address.h"
#include "base/metrics_page.h"
#include "base/process_metrics.h"
#include "base/status_macros.h"
#include "prometheus/gauge.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"

namespace tidegate {
namespace {

constexpr char kContentType[] = "text/plain; version=0.0.4; charset=utf-8";

// What the server of the page says of itself.
class HttpServerMetrics : public prometheus::Collectable {
 public:
  explicit HttpServerMetrics(const HttpServer& server) : server_(server) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    const HttpServer::Stats stats = server_.stats();
    MetricsPage page(std::vector<MetricsPage::Label>{});
    page.Gauge("tidegate_http_connections", "HTTP connections open, this one included.",
               static_cast<double>(stats.connections));
    page.Counter("tidegate_http_connections_shed_total",
                 "HTTP connections closed or refused because too many were open.",
                 static_cast<double>(stats.connections_shed));
    return std::move(page).Take();
  }

 private:
  const HttpServer& server_;
};

std::shared_ptr<prometheus::Registry> BuildInfo(
    const std::map<std::string, std::string>& build_labels) {
  auto registry = std::make_shared<prometheus::Registry>();
  prometheus::Labels labels = {{"version", TIDEGATE_VERSION},
                               {"revision", TIDEGATE_REVISION},
                               {"compiler", TIDEGATE_COMPILER}};
  labels.insert(build_labels.begin(), build_labels.end());
  prometheus::BuildGauge()
      .Name("tidegate_build_info")
      .Help("Always 1; the labels say what is running.")
      .Register(*registry)
      .Add(labels, 1.0);
  return registry;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Create(
    const std::string& address, const std::map<std::string, std::string>& build_labels,
    std::shared_ptr<TlsServer> tls, HttpGuard guard) {
  const absl::StatusOr<ListenAddress> listen = ParseListenAddress(address);
  if (!listen.ok()) return Annotate(listen.status(), "metrics");

  std::unique_ptr<MetricsServer> server(new MetricsServer);
  server->RegisterCollectable(BuildInfo(build_labels));
  server->RegisterCollectable(std::make_shared<ProcessMetrics>());
  const HttpHandler scrape = [metrics = server.get(), guard = std::move(guard)](
                                 const HttpRequest& request, HttpReply reply) {
    if (guard) {
      if (std::optional<HttpResponse> refusal = guard(request)) return reply.Send(*refusal);
    }
    reply.Send({200, kContentType, metrics->Render()});
  };
  HttpServerOptions options;
  options.tls = std::move(tls);
  absl::StatusOr<std::unique_ptr<HttpServer>> http =
      HttpServer::Start(*listen, {{"GET", "/metrics", scrape}}, std::move(options));
  if (!http.ok()) return Annotate(http.status(), "metrics");
  server->http_ = *std::move(http);
  server->RegisterCollectable(std::make_shared<HttpServerMetrics>(*server->http_));
  return server;
}

void MetricsServer::RegisterCollectable(std::shared_ptr<prometheus::Collectable> collectable) {
  MutexLock lock(mutex_);
  collectables_.push_back(std::move(collectable));
}

std::string MetricsServer::Render() const {
  std::vector<prometheus::MetricFamily> families;
  {
    MutexLock lock(mutex_);
    for (const auto& collectable : collectables_) {
      for (prometheus::MetricFamily& family : collectable->Collect()) {
        families.push_back(std::move(family));
      }
    }
  }
  const prometheus::TextSerializer serializer;
  return static_cast<const prometheus::Serializer&>(serializer).Serialize(families);
}

}  // namespace tidegate
