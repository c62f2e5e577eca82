// `tidegate health`: asks grpc.health.v1 and answers with the exit code, for container probes.
#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>

#include "base/flags.h"
#include "cli/client_options.h"
#include "cli/commands.h"
#include "cli/health_check.h"

namespace tidegate {
namespace {

// Below the timeout of container probes, which kill what does not answer.
constexpr std::chrono::seconds kHealthTimeout{3};

struct HealthOptions {
  ServerTarget server;
  std::string service = "readiness";
  double wait_seconds = 0;
};

// Asks again until the server is healthy or the time is up; the last answer counts.
absl::Status WaitForHealth(const HealthOptions& options) {
  constexpr std::chrono::milliseconds kPause{100};
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::duration<double>(options.wait_seconds);
  while (true) {
    const absl::Status status = CheckHealth(options.server, options.service, kHealthTimeout);
    if (status.ok()) std::printf("SERVING\n");
    if (status.ok() || std::chrono::steady_clock::now() >= end) return status;
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace

void AddHealthCommand(CLI::App& app, CommandRun& run) {
  auto options = std::make_shared<HealthOptions>();
  CLI::App& command = AddSubcommand(
      app, "health", "Exit with 0 if a server is healthy, else with 1 (for container probes)",
      "\nExamples:\n"
      "  tidegate health\n"
      "  tidegate health --wait 30                                     # after starting it\n"
      "  tidegate health --service liveness\n"
      "  tidegate health --server unix:/run/tidegate/store.sock.grpc   # the store\n",
      [options, &run](const CLI::App&) { run = [options] { return WaitForHealth(*options); }; });
  AddServerFlag(command, options->server);
  AddTextFlag(command, "--service", options->service,
              "readiness, liveness, a service such as tidegate.v1.GenerationService, or ''");
  AddRealFlag(command, "--wait", options->wait_seconds, {0, 3600},
              "ask again for up to this many seconds");
}

}  // namespace tidegate
