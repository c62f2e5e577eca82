// `tidegate cancel`: ends the streams of a request id.
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/flags.h"
#include "base/text.h"
#include "cli/client_options.h"
#include "cli/commands.h"
#include "grpcpp/grpcpp.h"
#include "tidegate/v1/generation.grpc.pb.h"

namespace tidegate {
namespace {

constexpr std::chrono::seconds kCancelTimeout{10};

struct CancelOptions {
  ServerTarget server;
  std::string request_id;
};

absl::Status CancelRequestId(const CancelOptions& options) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kCancelTimeout);
  v1::CancelRequest request;
  request.set_request_id(options.request_id);
  v1::CancelResponse response;
  const auto stub = v1::GenerationService::NewStub(Dial(options.server));
  const grpc::Status status = stub->Cancel(&context, request, &response);
  if (!status.ok()) return ExplainError(status, options.server.address, "tidegate-engine");
  if (!response.found()) {
    return absl::NotFoundError(absl::StrCat(
        "no stream has the request id ", Quoted(options.request_id),
        ": it has ended, or is called otherwise (generate --request-id; Started names it)"));
  }
  std::printf("cancelled\n");
  return absl::OkStatus();
}

}  // namespace

void AddCancelCommand(CLI::App& app, CommandRun& run) {
  auto options = std::make_shared<CancelOptions>();
  CLI::App& command = AddSubcommand(
      app, "cancel", "End the streams of a request id",
      "\nThey end with the status CANCELLED, within one token, all choices of a request together. "
      "An id that no\nopen stream has is an error.\n"
      "Examples:\n"
      "  tidegate generate 'Once upon a time' --request-id story &\n"
      "  tidegate cancel story\n"
      "  tidegate cancel story --server unix:/run/tidegate/engine.sock\n",
      [options, &run](const CLI::App&) { run = [options] { return CancelRequestId(*options); }; });
  AddTextFlag(command, "REQUEST_ID", options->request_id, "What Started said").Required();
  AddServerFlag(command, options->server);
}

}  // namespace tidegate
