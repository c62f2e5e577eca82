// `tidegate health`: asks grpc.health.v1 and answers with the exit code, for container probes.
#include <chrono>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "cli/client_options.h"
#include "cli/commands.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace tidegate {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// Below the timeout of container probes, which kill what does not answer.
constexpr std::chrono::seconds kTimeout{3};

struct HealthOptions {
  std::string server;
  std::string service = "readiness";
};

absl::Status CheckHealth(const HealthOptions& options) {
  const auto stub = grpc::health::v1::Health::NewStub(Dial(options.server));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  HealthCheckRequest request;
  request.set_service(options.service);
  HealthCheckResponse response;
  const grpc::Status status = stub->Check(&context, request, &response);
  RETURN_IF_ERROR(ExplainError(status, options.server, "tidegate-engine"));
  const std::string name = HealthCheckResponse::ServingStatus_Name(response.status());
  if (response.status() != HealthCheckResponse::SERVING) {
    return absl::UnavailableError(absl::StrCat("'", options.service, "' is ", name));
  }
  std::printf("%s\n", name.c_str());
  return absl::OkStatus();
}

}  // namespace

void AddHealthCommand(CLI::App& app, CommandRun& run) {
  auto options = std::make_shared<HealthOptions>();
  CLI::App* command = app.add_subcommand(
      "health", "Exit with 0 if a server is healthy, else with 1 (for container probes)");
  command->footer(
      "\nExamples:\n"
      "  tidegate health\n"
      "  tidegate health --service liveness\n"
      "  tidegate health --server unix:/run/tidegate/store.sock.grpc   # the store\n");
  AddServerFlag(*command, options->server);
  command
      ->add_option("--service", options->service,
                   "readiness, liveness, a service such as tidegate.v1.GenerationService, or ''")
      ->capture_default_str();
  command->callback([options, &run] { run = [options] { return CheckHealth(*options); }; });
}

}  // namespace tidegate
