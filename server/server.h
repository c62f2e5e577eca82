// The network side of tidegate-engine: gRPC services, health, reflection, limits of connections and
// streams (docs/security.md).
//
// Threads: gRPC's own, plus the health watcher. Start() and Shutdown() belong to one owner.
// TLS ends in the gate: gRPC gets clear text from it.
// Without keys (ServerOptions::access) everybody who reaches the address may do everything.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/connection_gate.h"
#include "grpcpp/grpcpp.h"
#include "server/access/access_control.h"
#include "server/access/audit_log.h"
#include "server/generate_service.h"
#include "server/health_reporter.h"
#include "server/kserve/inference_service.h"
#include "server/load_report.h"
#include "server/model_service.h"
#include "server/openai/openai_server.h"
#include "server/serving_state.h"

namespace tidegate {

struct ServerOptions {
  std::string listen;  // "HOST:PORT" (port 0: a free one) or "unix:PATH"
  GateLimits connections;
  std::shared_ptr<GateStats> connection_stats = std::make_shared<GateStats>();  // is filled
  std::shared_ptr<TlsServer> tls;                                               // null: clear text
  // Path of a Unix socket that is served in clear besides, for this user alone; "": none.
  std::string local_socket;
  int max_streams_per_connection = 1024;
  int max_open_streams = 4096;  // Generate and Chat calls, all connections
  std::chrono::milliseconds idle_timeout{15 * 60 * 1000};  // of a connection without calls
  std::chrono::milliseconds write_timeout{60 * 1000};      // for a client to take what was written
  int32_t max_priority = 0;                   // largest that requests may ask, [0, kMaxPriority]
  uint32_t max_choices = kDefaultMaxChoices;  // the same, [1, kMaxChoices]
  bool orca_trailers = false;  // load reports also for calls that do not ask (load_report.h)
  std::vector<std::string> model_aliases;
  std::string chat_template;  // instead of the model's; "": none
  std::shared_ptr<AccessControl> access = std::make_shared<AccessControl>();  // who may call
  std::shared_ptr<AuditLog> audit;                                            // null: none
  std::chrono::milliseconds health_interval{100};
  SpanExporter* tracer = nullptr;  // may be null; not owned, outlives the engine
  OpenAiOptions http;              // without an address: no HTTP API
};

class Server {
 public:
  // Listens and serves. `engine` is not owned and must be destroyed after this; `metrics` (may be
  // null) after the engine. UNAVAILABLE when the address cannot be bound; INVALID_ARGUMENT for a
  // chat template that is none.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options, Engine& engine,
                                                       EngineMetrics* metrics);
  ~Server();  // Shutdown() without waiting
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // In order: not ready, new requests get UNAVAILABLE; streams may run until `deadline`, then end
  // with FINISH_REASON_DRAINING; connections are closed.
  void Shutdown(std::chrono::steady_clock::time_point deadline);

  // The port of the TCP socket; 0 for Unix sockets.
  int port() const { return port_; }
  // Of the HTTP API; 0 for Unix sockets and where there is none.
  int http_port() const { return http_ == nullptr ? 0 : http_->address().port; }
  // "off" where there is none.
  std::string http_address() const {
    return http_ == nullptr ? "off" : http_->address().ToString();
  }
  // What clients on this machine dial: the host as given with the real port, or the Unix socket.
  const std::string& address() const { return address_; }
  std::shared_ptr<const GateStats> connection_stats() const { return connection_stats_; }

 private:
  Server(const ServerOptions& options, ChatPrompts chat, Engine& engine, EngineMetrics* metrics);
  absl::Status Listen(const ServerOptions& options);
  void WaitForOpenStreams(std::chrono::steady_clock::time_point deadline);

  ChatPrompts chat_;
  const std::shared_ptr<const GateStats> connection_stats_;
  OpenStreams streams_;
  LoadReporter load_;
  const std::shared_ptr<AccessControl> access_;
  const std::shared_ptr<AuditLog> audit_;
  ServingState state_;
  GenerationServiceImpl generation_;
  ModelServiceImpl model_;
  InferenceServiceImpl inference_;
  int port_ = 0;
  std::string address_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> grpc_;
  std::unique_ptr<ConnectionGate> gate_, local_gate_;  // hand connections to acceptor_
  std::unique_ptr<HealthReporter> health_;
  std::unique_ptr<OpenAiServer> http_;
};

}  // namespace tidegate
