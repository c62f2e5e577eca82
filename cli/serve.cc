// `tidegate serve`: a model as a service, in one command.
#include <cstdio>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/flags.h"
#include "base/log.h"
#include "base/port_file.h"
#include "base/reloader.h"
#include "base/shutdown.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/local_service.h"

namespace tidegate {
namespace {

constexpr const char* kServeFooter = R"(
Packs the model if that was not done before, chooses how much memory it gets, and runs
tidegate-store and tidegate-engine as child processes. One that ends is started again after 0.5 s,
after twice the time if it ends again, at most 30 s; a minute of health makes up for all before.
After the 11th end in a row, or if a program ends before it was ever ready, serve ends with exit
code 1. An engine that comes back finds its cache warm; so does a store that was killed.
Ctrl-C or SIGTERM lets running streams end by themselves (--drain-timeout), a second one ends all
at once. SIGHUP lets both programs read certificates, keys and limits again.

Every other flag of tidegate-engine and tidegate-store may be given too, and goes to the one that
knows it: see `tidegate-engine --help` and `tidegate-store --help`. So do their environment
variables.

Examples:
  tidegate serve model.gguf
  tidegate serve Llama-3.2-1B/ --memory 2GiB --listen 0.0.0.0:50051
  tidegate serve model.tgpack --max-running 8 --context 8192 --flash-backend pread
)";

// Where clients of OpenAI's API on this machine look first, as with other servers of models.
constexpr char kHttpListen[] = "127.0.0.1:8080";

struct ServeOptions {
  ServiceOptions service;
  std::string port_file, http_port_file;
};

void Say(const std::string& line) {
  constexpr size_t kMaxLineBytes = 4096;
  std::fprintf(stderr, "%s\n", PrintableLines(line, kMaxLineBytes).c_str());
}

std::string UrlText(const std::string& address, const char* path, bool tls = false) {
  if (address.empty()) return "off";
  if (absl::StartsWith(address, "unix:")) return address;
  return absl::StrCat(tls ? "https://" : "http://", address, path);
}

// What was decided before anything runs.
void PrintPlan(const LocalService& service) {
  const MemoryChoice& memory = service.memory();
  Say(absl::StrCat("pack: ", service.pack().path, ", ", FormatBytes(service.pack().bytes)));
  std::string share = "all weights stay in it";
  if (memory.cached < 1) {
    share = absl::StrFormat(
        "%.0f %% of the MLP weights find room in it, the others are read when needed",
        100 * memory.cached);
  }
  Say(absl::StrCat("memory: ", FormatBytes(memory.budget_bytes), " (", memory.reason, "); ",
                   share));
}

void PrintAddresses(const LocalService& service) {
  const std::string server = service.server(), dialled = service.own_server();
  const std::string flag =
      dialled == ServerConfig().listen ? "" : absl::StrCat(" --server ", dialled);
  std::printf("%s\n",
              absl::StrCat("serving ", Printable(service.model_name()), "\n  gRPC     ", server,
                           "\n  OpenAI   ", UrlText(service.http(), "/v1", service.has_tls()),
                           "\n  metrics  engine ",
                           UrlText(service.engine_metrics(), "/metrics", service.has_metrics_tls()),
                           ", store ", UrlText(service.store_metrics(), "/metrics"),
                           "\n  store    ", service.store_server(), "\n  try      tidegate ",
                           service.has_chat() ? "chat" : "generate 'Once upon a time'", flag)
                  .c_str());
  std::fflush(stdout);
}

absl::Status Serve(const ServeOptions& options) {
  SetLogFormat(options.service.log_format == "json" ? LogFormat::kJson : LogFormat::kText);
  ASSIGN_OR_RETURN(const std::unique_ptr<LocalService> service,
                   LocalService::Prepare(options.service, Say));
  PrintPlan(*service);
  HangUpSignal hang_up;
  // Until here a signal ends the process at once.
  InterruptGuard interrupt([&service] {
    const std::chrono::duration<double> limit = service->drain_timeout();
    Say(absl::StrCat("stopping: running streams have ", FormatSeconds(limit.count()),
                     "; a second signal ends all at once"));
    service->RequestStop();
  });
  Reloader reloader(hang_up);
  reloader.Add("store and engine", [&service] {
    service->RequestReload();
    return absl::OkStatus();
  });
  reloader.Start();
  absl::Status ports;
  SupervisorOptions supervisor;
  supervisor.tell = [](const std::string& line) { LogWarning(line); };
  supervisor.on_ready = [&] {
    PrintAddresses(*service);
    ports = WritePortFile(options.http_port_file, service->http_port());
    ports.Update(WritePortFile(options.port_file, service->port()));
    if (!ports.ok()) service->RequestStop();
  };
  if (const absl::Status ended = service->Run(supervisor); !ended.ok()) {
    return absl::Status(ended.code(),
                        absl::StrCat(ended.message(), "; what the programs said is above"));
  }
  return ports;
}

}  // namespace

void AddServeCommand(CLI::App& app, CommandRun& run) {
  const auto options = std::make_shared<ServeOptions>();
  ServiceOptions& service = options->service;
  service.listen = ServerConfig().listen;
  service.http_listen = kHttpListen;
  service.metrics_listen = ServerConfig().metrics_listen;
  service.store_metrics_listen = StoreConfig().metrics_listen;
  CLI::App& command = AddSubcommand(
      app, "serve",
      "Serve a GGUF file, a Hugging Face folder or a pack over gRPC and HTTP, until Ctrl-C",
      kServeFooter,
      [options, &run](const CLI::App&) { run = [options] { return Serve(*options); }; });
  AddAddressFlag(command, "--listen", service.listen,
                 "Address of gRPC: HOST:PORT (port 0 takes a free one) or unix:PATH. In clear text "
                 "without --tls-cert and --tls-key of tidegate-engine")
      .Variable("TIDEGATE_LISTEN");
  AddAddressFlag(command, "--http-listen", service.http_listen,
                 "Address of the OpenAI-compatible HTTP API; off: none", /*off=*/true)
      .Variable("TIDEGATE_HTTP_LISTEN");
  AddAddressFlag(command, "--metrics-listen", service.metrics_listen,
                 "Address of the engine's Prometheus metrics; off: none", /*off=*/true)
      .Variable("TIDEGATE_METRICS_LISTEN");
  AddAddressFlag(command, "--store-metrics-listen", service.store_metrics_listen,
                 "Address of the store's Prometheus metrics; off: none", /*off=*/true)
      .Variable("TIDEGATE_STORE_METRICS_LISTEN");
  AddTextFlag(command, "--port-file", options->port_file,
              "File to write the port of --listen into when the service is ready");
  AddTextFlag(command, "--http-port-file", options->http_port_file,
              "The same for the port of --http-listen");
  service.Register(command);
}

}  // namespace tidegate
