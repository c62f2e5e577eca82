// `tidegate stats`: what a weight store has done and holds.
#include <chrono>
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/flags.h"
#include "base/status_macros.h"
#include "cli/client_options.h"
#include "cli/commands.h"
#include "cli/proto_json.h"
#include "cli/stats_table.h"
#include "grpcpp/grpcpp.h"
#include "tidegate/v1/weight_store.grpc.pb.h"
#include "weightstore/admin_service.h"

namespace tidegate {
namespace {

constexpr std::chrono::seconds kStatsTimeout{5};

struct StatsOptions {
  std::string socket = "/run/tidegate/store.sock";
  bool json = false;
};

absl::Status PrintStats(const StatsOptions& options) {
  const std::string target = absl::StrCat("unix:", AdminServer::SocketPath(options.socket));
  const auto stub = v1::WeightStoreService::NewStub(Dial({.address = target}));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kStatsTimeout);
  v1::GetStatsResponse response;
  const grpc::Status status = stub->GetStats(&context, v1::GetStatsRequest(), &response);
  RETURN_IF_ERROR(ExplainError(status, target, "tidegate-store"));
  const std::string text =
      options.json ? ProtoJsonForOutput(response) + "\n" : StatsTable(response);
  std::fputs(text.c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

void AddStatsCommand(CLI::App& app, CommandRun& run) {
  auto options = std::make_shared<StatsOptions>();
  CLI::App& command = AddSubcommand(
      app, "stats", "Show what a weight store has done and holds", "",
      [options, &run](const CLI::App&) { run = [options] { return PrintStats(*options); }; });
  AddSocketFlag(command, "--socket", options->socket, AdminServer::kMaxAttachSocketBytes,
                "Attach socket of tidegate-store")
      .Variable("TIDEGATE_STORE_SOCKET");
  AddSwitch(command, "--json", options->json, "JSON instead of a table");
}

}  // namespace tidegate
