// Flags of tidegate-engine (also TIDEGATE_* in the environment, and --config FILE), with their
// defaults and bounds. Called by main(), before other threads begin.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/connection_gate.h"
#include "base/flag_values.h"
#include "base/log.h"
#include "base/tls_files.h"
#include "engine/engine_options.h"
#include "engine/request_limits.h"
#include "server/access_setup.h"
#include "server/tracing_options.h"

namespace CLI {
class App;
}

namespace tidegate {

struct ServerConfig {
  std::string listen = "127.0.0.1:50051";
  std::string port_file;                          // "": none
  std::string local_socket;                       // "": none
  std::string metrics_listen = "127.0.0.1:9464";  // "": off
  std::string metrics_port_file;                  // "": none
  TlsOptions tls;
  bool metrics_tls = false;    // metrics over HTTPS, with the same certificate and client CA
  std::string http_listen;     // "": no HTTP API
  std::string http_port_file;  // "": none
  std::vector<std::string> http_origins;  // of web pages that may call it
  int http_max_connections = 1024;
  bool metrics_vllm_names = false;
  bool orca_trailers = false;
  AccessConfig access;
  std::vector<std::string> model_aliases;
  std::string chat_template_file;  // "": the model's own template
  std::chrono::nanoseconds drain_timeout = std::chrono::seconds(120);
  GateLimits connections;
  int max_streams_per_connection = 1024;
  int max_priority = 0;                  // that requests may ask
  int max_choices = kDefaultMaxChoices;  // the same
  int max_open_streams = 0;              // 0: what run and wait at most, and kFinishedStreams
  std::chrono::nanoseconds idle_timeout = std::chrono::minutes(15);
  std::chrono::nanoseconds write_timeout = std::chrono::seconds(60);
  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;
  SpanExporterOptions tracing;
  EngineOptions engine;
};

// Finished streams whose clients have not read their end, where --max-open-streams is 0.
inline constexpr int kFinishedStreams = 512;
// That may run where --max-running leaves their number to the engine.
inline constexpr uint32_t kRunningStreams = 512;
// Open calls beyond Generate and Chat: health watches and what is answered at once.
inline constexpr int kOtherCalls = 1024;

// Adds every flag to `app`, which writes into `config`: that must outlive it.
void AddServerFlags(CLI::App& app, ServerConfig& config);

// Fills `config`. A value means that the process is to exit with it (help, version or a mistake,
// which has been explained on standard error).
std::optional<int> ParseServerConfig(int argc, const char* const* argv, ServerConfig& config);

// Fills `config` again while the process runs, from the arguments it was started with, the
// environment and the file as they are now. By anybody. INVALID_ARGUMENT says what is wrong.
absl::StatusOr<std::vector<FlagValue>> ReadServerConfig(int argc, const char* const* argv,
                                                        ServerConfig& config);

// What single flags cannot check. INVALID_ARGUMENT names the flags.
absl::Status ValidateServerConfig(const ServerConfig& config);

}  // namespace tidegate
