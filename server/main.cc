// tidegate-engine: attaches to a weight store and serves one model over gRPC.
#include <signal.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "base/descriptors.h"
#include "base/heap.h"
#include "base/log.h"
#include "base/metrics_connections.h"
#include "base/metrics_reload.h"
#include "base/metrics_server.h"
#include "base/metrics_tls.h"
#include "base/port_file.h"
#include "base/process.h"
#include "base/read_file.h"
#include "base/reloader.h"
#include "base/settings_reload.h"
#include "base/shutdown.h"
#include "base/standard_streams.h"
#include "base/status_macros.h"
#include "base/tls.h"
#include "base/units.h"
#include "engine/engine.h"
#include "engine/kernels/kernels.h"
#include "server/config.h"
#include "server/metrics.h"
#include "server/metrics_access.h"
#include "server/metrics_tracing.h"
#include "server/server.h"

namespace tidegate {
namespace {

// Beyond --drain-timeout, for clients to take their last words and for everything to be torn down.
constexpr std::chrono::seconds kHardEndGrace{5};

// Lets scrapes read the engine, and not any more when it goes.
class ScrapedEngine {
 public:
  ScrapedEngine(EngineMetrics* metrics, const Engine* engine) : metrics_(metrics) {
    if (metrics_ != nullptr) metrics_->AttachEngine(engine);
  }
  ~ScrapedEngine() {
    if (metrics_ != nullptr) metrics_->AttachEngine(nullptr);
  }
  ScrapedEngine(const ScrapedEngine&) = delete;

 private:
  EngineMetrics* const metrics_;
};

ServerOptions OptionsOf(const ServerConfig& config) {
  ServerOptions options;
  options.listen = config.listen;
  options.local_socket = config.local_socket;
  options.connections = config.connections;
  options.max_streams_per_connection = config.max_streams_per_connection;
  options.max_open_streams = config.max_open_streams;
  options.idle_timeout = std::chrono::duration_cast<std::chrono::milliseconds>(config.idle_timeout);
  options.write_timeout =
      std::chrono::duration_cast<std::chrono::milliseconds>(config.write_timeout);
  options.max_priority = config.max_priority;
  options.max_choices = static_cast<uint32_t>(config.max_choices);
  options.orca_trailers = config.orca_trailers;
  options.model_aliases = config.model_aliases;
  options.http.listen = config.http_listen;
  options.http.allowed_origins = config.http_origins;
  options.http.max_connections = static_cast<size_t>(config.http_max_connections);
  options.http.write_timeout = options.write_timeout;
  return options;
}

// Who may call, and what is written of it.
absl::Status OpenToCallers(const ServerConfig& config, ServerOptions& options) {
  ASSIGN_OR_RETURN(options.access, OpenAccess(config.access));
  ASSIGN_OR_RETURN(options.audit, OpenAuditLog(config.access));
  return CheckExposure({{"--listen", config.listen, config.tls.on()},
                        {"--http-listen", config.http_listen, config.tls.on()},
                        {"--metrics-listen", config.metrics_listen, config.metrics_tls}},
                       options.access->keys_on() || !config.tls.client_ca_file.empty(),
                       config.access);
}

// What is read again on SIGHUP.
void AddReloads(const ServerOptions& options, Reloader& reloader) {
  if (options.tls != nullptr) {
    reloader.Add("certificate", [tls = options.tls] { return tls->Reload(); });
  }
  if (options.access->keys_on()) {
    reloader.Add("keys", [access = options.access] { return access->Reload(); });
  }
  if (options.audit != nullptr) {
    reloader.Add("audit log", [audit = options.audit] { return audit->Reopen(); });
  }
}

// What the process was started with, to read its settings again.
struct Arguments {
  int argc;
  const char* const* argv;
};

// Everything the process owns, in construction order; destroyed in reverse.
absl::Status Run(const ServerConfig& config, Arguments arguments) {
  HangUpSignal hang_up;
  ServerOptions options = OptionsOf(config);
  if (!config.chat_template_file.empty()) {
    ASSIGN_OR_RETURN(options.chat_template,
                     ReadFile(config.chat_template_file, kMaxChatTemplateBytes));
  }
  if (config.tls.on()) {
    ASSIGN_OR_RETURN(options.tls, TlsServer::Create(config.tls));
    options.http.tls = options.tls;
  }
  RETURN_IF_ERROR(OpenToCallers(config, options));
  const auto reload_stats = std::make_shared<ReloadStats>();
  const auto span_stats = std::make_shared<SpanStats>();
  std::unique_ptr<MetricsServer> metrics_server;
  std::unique_ptr<EngineMetrics> metrics;
  if (!config.metrics_listen.empty()) {
    ASSIGN_OR_RETURN(metrics_server,
                     MetricsServer::Create(
                         config.metrics_listen,
                         {{"simd", std::string(BestKernels(config.engine.precision).name)}},
                         config.metrics_tls ? options.tls : nullptr, MetricsGuard(options.access)));
    metrics = std::make_unique<EngineMetrics>(*metrics_server, config.metrics_vllm_names);
    metrics_server->RegisterCollectable(
        std::make_shared<ConnectionMetrics>(options.connection_stats));
    metrics_server->RegisterCollectable(
        std::make_shared<AccessMetrics>(options.access, options.audit));
    metrics_server->RegisterCollectable(std::make_shared<ReloadMetrics>(reload_stats));
    metrics_server->RegisterCollectable(std::make_shared<TracingMetrics>(span_stats));
    if (options.tls != nullptr) {
      metrics_server->RegisterCollectable(std::make_shared<TlsMetrics>(options.tls));
    }
    RETURN_IF_ERROR(WritePortFile(config.metrics_port_file, metrics_server->port()));
  }
  std::unique_ptr<SpanExporter> tracer;
  if (!config.tracing.endpoint.empty()) {
    ASSIGN_OR_RETURN(tracer, SpanExporter::Start(config.tracing, span_stats));
    options.tracer = tracer.get();
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                   Engine::Create(config.engine, metrics.get()));
  const ScrapedEngine scraped(metrics.get(), engine.get());
  ShutdownSignal shutdown;  // Until here SIGTERM and SIGINT end the process at once.
  ASSIGN_OR_RETURN(const std::unique_ptr<Server> server,
                   Server::Start(options, *engine, metrics.get()));
  Reloader reloader(hang_up, reload_stats);
  reloader.Add("settings",
               SettingsReload<ServerConfig>(arguments.argc, arguments.argv, ReadServerConfig));
  AddReloads(options, reloader);
  reloader.Start();
  RETURN_IF_ERROR(WritePortFile(config.port_file, server->port()));
  RETURN_IF_ERROR(WritePortFile(config.http_port_file, server->http_port()));
  LogInfo("serving: grpc ", server->address(), ", http ", server->http_address(), ", metrics ",
          metrics_server == nullptr ? "off" : absl::StrCat(metrics_server->address(), "/metrics"),
          ", store ", config.engine.store_socket);

  const int signal = shutdown.Wait();
  const auto deadline = std::chrono::steady_clock::now() + config.drain_timeout;
  const std::string limit =
      FormatSeconds(std::chrono::duration<double>(config.drain_timeout).count());
  LogInfo("signal ", signal, ": draining for at most ", limit, "; a second signal exits at once");
  EndProcessAt(deadline + kHardEndGrace,
               absl::StrCat("something hangs beyond the ", limit, " of --drain-timeout"));
  server->Shutdown(deadline);
  LogInfo("stopped");
  return absl::OkStatus();
}

}  // namespace
}  // namespace tidegate

int main(int argc, char** argv) {
  tidegate::HandleShutdownSignals();
  tidegate::OpenStandardStreams();
  tidegate::PrepareProcess();
  signal(SIGPIPE, SIG_IGN);
  tidegate::ServerConfig config;
  const std::optional<int> exit_code = tidegate::ParseServerConfig(argc, argv, config);
  if (exit_code.has_value()) return tidegate::FinishStandardOutput("tidegate-engine", *exit_code);
  tidegate::InitLog("tidegate-engine", config.log_level, config.log_format);
  tidegate::RaiseDescriptorLimit();
  tidegate::BoundHeapArenas();
  absl::Status status = tidegate::ValidateServerConfig(config);
  if (status.ok()) status = tidegate::Run(config, {argc, argv});
  if (status.ok()) return 0;
  tidegate::LogError(std::string(status.message()));
  return 1;
}
