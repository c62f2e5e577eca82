#include "cli/local_service.h"

#include <unistd.h>

#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/flags.h"
#include "base/listen_address.h"
#include "base/numbers.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/health_check.h"
#include "cli/servable.h"

namespace tidegate {
namespace {

// Of one question; a stop may have to wait for it.
constexpr std::chrono::milliseconds kAskTimeout{1000};

// Behind --config. The file of settings is read here; TIDEGATE_CONFIG is not for our programs to
// see.
constexpr char kNoConfig[] = "";

bool IsReady(const std::string& server) {
  return CheckHealth({.address = server}, "readiness", kAskTimeout, /*own_connection=*/true).ok();
}

void Append(std::vector<std::string>& to, const std::vector<std::string>& more) {
  to.insert(to.end(), more.begin(), more.end());
}

BudgetRequest RequestOf(const StoreOptions& store) {
  return {.engine_reserve_bytes = store.engine_reserve_bytes,
          .staging_bytes = store.staging_bytes,
          .cache = store.policy != "none",
          .input_share = store.input_share};
}

}  // namespace

void ServiceOptions::Register(CLI::App& command) {
  AddTextFlag(command, "MODEL", pack.model,
              "A GGUF file (of a split model: any one), a Hugging Face folder, or a pack")
      .Required();
  AddTextFlag(
      command, "--memory,--memory-budget",
      [this](const std::string& text) {
        ASSIGN_OR_RETURN(memory, ParseBytes(text));
        return absl::OkStatus();
      },
      "Memory for weights and KV cache, for example 8GiB [what the model needs, or most of what "
      "is free on the machine or in the control group]")
      .Type("BYTES")
      .Variable("TIDEGATE_MEMORY_BUDGET");
  AddTextFlag(command, "--units", pack.units,
              "How MLP weights are packed: q8, q4, f16 or f32; q4 takes half of the room "
              "and of the reads of q8, and loses more [q8]");
  AddTextFlag(command, "--cache-dir", pack.cache_dir,
              "Folder for packs made here [tidegate in $XDG_CACHE_HOME or ~/.cache]")
      .Variable("TIDEGATE_CACHE_DIR");
  AddChoiceFlag(command, "--log-level", log_level, {"debug", "info", "warning", "error"},
                "Lowest level that store and engine log: debug, info, warning, error")
      .Variable("TIDEGATE_LOG_LEVEL");
  AddChoiceFlag(command, "--log-format", log_format, {"text", "json"},
                "Their log lines as text, or each as a JSON object: text, json")
      .Variable("TIDEGATE_LOG_FORMAT");
  AddConfigFlags(command);
  AddDaemonFlags(command, flags);
}

std::string LocalService::Endpoint::Dialled() const {
  if (off) return "";
  ListenAddress dialled = address;
  if (dialled.host == "0.0.0.0") dialled.host = "127.0.0.1";
  if (dialled.host == "::") dialled.host = "::1";
  return dialled.ToString();
}

void LocalService::Endpoint::Forget() const { ::unlink(port_file.c_str()); }

bool LocalService::Endpoint::Learn() {
  constexpr size_t kMaxBytes = 16;
  if (off) return true;
  // Only what our program has written counts: somebody else may answer on the port.
  auto text = ReadFile(port_file, kMaxBytes);
  if (!text.ok() || !absl::EndsWith(*text, "\n")) return false;
  text->pop_back();
  const auto port = ParseInteger(*text, {0, 65535});
  if (!port.ok()) return false;
  address.port = static_cast<uint16_t>(*port);
  return true;
}

absl::StatusOr<std::unique_ptr<LocalService>> LocalService::Prepare(const ServiceOptions& options,
                                                                    const TellPerson& tell) {
  std::string programs[2];
  ASSIGN_OR_RETURN(programs[0], SiblingProgram("tidegate-store"));
  ASSIGN_OR_RETURN(programs[1], SiblingProgram("tidegate-engine"));
  // Mistakes in flags are said before the long work.
  StoreConfig store;
  std::vector<std::string> arguments = {"tidegate-store", "--config",         kNoConfig,
                                        "--pack",         options.pack.model, "--memory-budget=1"};
  Append(arguments, options.flags.store);
  RETURN_IF_ERROR(ParseArguments(arguments, store));
  ServerConfig engine;
  arguments = {"tidegate-engine", "--config", kNoConfig};
  Append(arguments, options.flags.engine);
  RETURN_IF_ERROR(ParseArguments(arguments, engine));

  ASSIGN_OR_RETURN(const ReadyPack pack, PackFor(options.pack, tell));
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(pack.path));
  ASSIGN_OR_RETURN(const PackIndex index, ReadPackIndex(fd.get(), pack.path));
  RETURN_IF_ERROR(Annotate(CheckServable(index.manifest), pack.path));
  ASSIGN_OR_RETURN(MemoryChoice memory, ChooseMemory(index, RequestOf(store.store), options.memory,
                                                     ReadMemoryFacts(store.region_dir)));

  ASSIGN_OR_RETURN(TemporaryFolder folder, TemporaryFolder::Create(store.region_dir));
  std::unique_ptr<LocalService> service(new LocalService(std::move(folder)));
  service->pack_ = pack;
  service->memory_ = std::move(memory);
  service->model_name_ = index.manifest.model_name();
  service->has_chat_ =
      !engine.chat_template_file.empty() ||
      (!index.manifest.chat_template().empty() && CheckChatTemplate(index.manifest).ok());
  service->drain_timeout_ = engine.drain_timeout;
  service->tls_ = engine.tls.on();
  service->metrics_tls_ = engine.metrics_tls;
  service->store_.program = programs[0];
  service->engine_.program = programs[1];
  RETURN_IF_ERROR(service->SetUp(options));
  return service;
}

absl::StatusOr<LocalService::Endpoint> LocalService::MakeEndpoint(const std::string& listen,
                                                                  const std::string& name) {
  Endpoint endpoint;
  endpoint.off = listen.empty();
  endpoint.port_file = folder_.File(name);
  if (!endpoint.off) {
    ASSIGN_OR_RETURN(endpoint.address, ParseListenAddress(listen));
  }
  return endpoint;
}

absl::Status LocalService::SetUp(const ServiceOptions& options) {
  socket_ = folder_.File("store.sock");
  local_socket_ = folder_.File("local.sock");
  folder_.File("store.sock.grpc");
  folder_.File(std::filesystem::path(RegionPath(folder_.path(), socket_)).filename().string());
  const std::string listen =
      options.listen.empty() ? absl::StrCat("unix:", folder_.File("engine.sock")) : options.listen;
  ASSIGN_OR_RETURN(engine_.grpc, MakeEndpoint(listen, "engine.port"));
  ASSIGN_OR_RETURN(engine_.http, MakeEndpoint(options.http_listen, "engine-http.port"));
  ASSIGN_OR_RETURN(engine_.metrics, MakeEndpoint(options.metrics_listen, "engine-metrics.port"));
  ASSIGN_OR_RETURN(store_.metrics,
                   MakeEndpoint(options.store_metrics_listen, "store-metrics.port"));
  log_level_ = options.log_level;
  log_format_ = options.log_format;
  store_.flags = options.flags.store;
  std::erase_if(store_.flags, [](const std::string& flag) {  // It says where the folder lies.
    return absl::StartsWith(flag, "--region-dir=");
  });
  engine_.flags = options.flags.engine;
  supervisor_.reset(new Supervisor(
      {{"tidegate-store", [this] { return StoreCommand(); }, [this] { return StoreReady(); }},
       {"tidegate-engine", [this] { return EngineCommand(); }, [this] { return EngineReady(); }}}));
  return absl::OkStatus();
}

absl::Status LocalService::Run(SupervisorOptions options) { return supervisor_->Run(options); }

std::vector<std::string> LocalService::StoreCommand() {
  store_.metrics.Forget();
  std::vector<std::string> command = {store_.program,
                                      "--config",
                                      kNoConfig,
                                      "--pack",
                                      pack_.path,
                                      "--memory-budget",
                                      absl::StrCat(memory_.budget_bytes),
                                      "--socket",
                                      socket_,
                                      "--region-dir",
                                      folder_.path(),
                                      "--metrics-listen",
                                      store_.metrics.Listened(),
                                      "--metrics-port-file",
                                      store_.metrics.port_file,
                                      "--log-level",
                                      log_level_,
                                      "--log-format",
                                      log_format_};
  Append(command, store_.flags);
  return command;
}

std::vector<std::string> LocalService::EngineCommand() {
  engine_.grpc.Forget();
  engine_.http.Forget();
  engine_.metrics.Forget();
  std::vector<std::string> command = {engine_.program,
                                      "--config",
                                      kNoConfig,
                                      "--store-socket",
                                      socket_,
                                      "--listen",
                                      engine_.grpc.Listened(),
                                      "--port-file",
                                      engine_.grpc.port_file,
                                      "--http-listen",
                                      engine_.http.Listened(),
                                      "--http-port-file",
                                      engine_.http.port_file,
                                      "--metrics-listen",
                                      engine_.metrics.Listened(),
                                      "--metrics-port-file",
                                      engine_.metrics.port_file,
                                      "--log-level",
                                      log_level_,
                                      "--log-format",
                                      log_format_};
  if (tls_) Append(command, {"--local-socket", local_socket_});
  Append(command, engine_.flags);
  return command;
}

bool LocalService::StoreReady() { return IsReady(store_server()) && store_.metrics.Learn(); }

bool LocalService::EngineReady() {
  return engine_.metrics.Learn() && engine_.http.Learn() && engine_.grpc.Learn() &&
         IsReady(own_server());
}

}  // namespace tidegate
