// tidegate-store: keeps one pack's weights on flash and those in use in shared memory.
#include <signal.h>

#include "absl/strings/str_cat.h"
#include "base/descriptors.h"
#include "base/heap.h"
#include "base/log.h"
#include "base/memory_limit.h"
#include "base/metrics_connections.h"
#include "base/metrics_reload.h"
#include "base/metrics_server.h"
#include "base/port_file.h"
#include "base/process.h"
#include "base/reloader.h"
#include "base/settings_reload.h"
#include "base/shutdown.h"
#include "base/standard_streams.h"
#include "base/status_macros.h"
#include "base/units.h"
#include "weightstore/admin_service.h"
#include "weightstore/store.h"
#include "weightstore/store_config.h"
#include "weightstore/store_metrics.h"

namespace tidegate {
namespace {

void LogFacts(const StoreInfo& info) {
  LogInfo("flash: ", info.flash.backend, " (", info.flash.reason, "), ",
          info.flash.direct ? "O_DIRECT"
                            : absl::StrCat("through the page cache: ", info.flash.why_not_direct),
          ", ", FormatBytes(info.flash.fixed_buffer_bytes), " registered, queue depth ",
          info.flash.queue_depth);
  const bool fell_back = info.flash.backend == "pread" && info.flash.reason != "asked for";
  if (fell_back || !info.flash.direct) {
    LogInfo("`tidegate doctor` says what such reads cost, and what to do");
  }
  LogInfo("budget ", FormatBytes(info.memory_budget_bytes), ": static weights ",
          FormatBytes(info.static_bytes), ", slots ", FormatBytes(info.slot_bytes), " for ",
          FormatBytes(info.streamed_model_bytes), " on flash, staging ",
          FormatBytes(info.staging_bytes), ", engine ", FormatBytes(info.engine_reserve_bytes),
          "; policy ", info.policy, ", ", info.warm_blocks, " blocks warm");
  LogInfo("slots of a layer: ", info.slots_per_layer[0], " of ", info.blocks_per_layer[0],
          " input blocks, ", info.slots_per_layer[1], " of ", info.blocks_per_layer[1],
          " hidden blocks");
  if (info.static_on_flash_bytes > 0) {
    LogInfo("the embedding's ", FormatBytes(info.static_on_flash_bytes), " stay on flash");
  }
}

// The kernel would end the process, and say so only in its own log.
void WarnOfMemoryLimit(uint64_t budget_bytes) {
  const MemoryLimit limit = ReadMemoryLimit();
  if (limit.bytes == 0 || budget_bytes <= limit.bytes) return;
  LogWarning("--memory-budget ", FormatBytes(budget_bytes), " is more than ",
             limit.by_cgroup ? "the control group's limit of " : "this machine's ",
             FormatBytes(limit.bytes), limit.by_cgroup ? "" : " of memory",
             "; lower it, or the kernel may end the store");
}

// What the process was started with, to read its settings again.
struct Arguments {
  int argc;
  const char* const* argv;
};

// Everything the process owns, in construction order; destroyed in reverse.
absl::Status Run(const StoreConfig& config, Arguments arguments) {
  HangUpSignal hang_up;
  const std::string& socket = config.store.socket_path;
  RETURN_IF_ERROR(PrepareSocketFolder(socket));
  WarnOfMemoryLimit(config.store.memory_budget_bytes);
  ASSIGN_OR_RETURN(const std::unique_ptr<Store> store, Store::Create(config.store));
  // Until here, and that may be minutes, SIGTERM and SIGINT end the process at once.
  ShutdownSignal shutdown;
  LogFacts(store->info());
  if (!config.store.verify_checksums) {
    LogWarning("--no-verify: damaged weights will go unnoticed");
  }
  const auto connections = std::make_shared<GateStats>();
  Reloader reloader(hang_up);
  std::unique_ptr<MetricsServer> metrics;
  if (!config.metrics_listen.empty()) {
    ASSIGN_OR_RETURN(metrics, MetricsServer::Create(config.metrics_listen));
    metrics->RegisterCollectable(std::make_shared<StoreMetrics>(store->info(), store->stats()));
    metrics->RegisterCollectable(std::make_shared<ConnectionMetrics>(connections));
    metrics->RegisterCollectable(std::make_shared<ReloadMetrics>(reloader.stats()));
    RETURN_IF_ERROR(WritePortFile(config.metrics_port_file, metrics->port()));
  }
  RETURN_IF_ERROR(store->Start());
  ASSIGN_OR_RETURN(std::unique_ptr<AdminServer> admin,
                   AdminServer::Start(AdminServer::SocketPath(socket), store->info(),
                                      store->stats(), connections));
  reloader.Add("settings",
               SettingsReload<StoreConfig>(arguments.argc, arguments.argv, ReadStoreConfig));
  reloader.Start();
  LogInfo("ready: ", store->info().model_name, " on ", socket, ", metrics ",
          metrics == nullptr ? "off" : absl::StrCat(metrics->address(), "/metrics"));

  const int signal = shutdown.Wait();
  LogInfo("signal ", signal, ": stopping; a second signal exits at once");
  EndProcessAt(
      std::chrono::steady_clock::now() + config.stop_timeout,
      absl::StrCat("reads have not come back in the ",
                   FormatSeconds(std::chrono::duration<double>(config.stop_timeout).count()),
                   " of --stop-timeout"));
  admin.reset();
  store->Stop();
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
  tidegate::StoreConfig config;
  const std::optional<int> exit_code = tidegate::ParseStoreConfig(argc, argv, config);
  if (exit_code.has_value()) return tidegate::FinishStandardOutput("tidegate-store", *exit_code);
  tidegate::InitLog("tidegate-store", config.log_level, config.log_format);
  tidegate::RaiseDescriptorLimit();
  tidegate::BoundHeapArenas();
  const absl::Status status = tidegate::Run(config, {argc, argv});
  if (status.ok()) return 0;
  tidegate::LogError(std::string(status.message()));
  return 1;
}
