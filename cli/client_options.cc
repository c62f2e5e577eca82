#include "cli/client_options.h"

#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace tidegate {
namespace {

const char* CodeName(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  const size_t index = static_cast<size_t>(code);
  return index < std::size(kNames) ? kNames[index] : "UNKNOWN";
}

// Bytes of a peer that end up on a terminal: control characters could change its state.
std::string Printable(const std::string& text) {
  std::string printable = text;
  for (char& c : printable) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return printable;
}

void AppendBadRequest(const google::rpc::BadRequest& detail, std::string& text) {
  for (const auto& violation : detail.field_violations()) {
    absl::StrAppend(&text, "\n  ", Printable(violation.field()), ": ",
                    Printable(violation.description()));
  }
}

void AppendErrorInfo(const google::rpc::ErrorInfo& detail, std::string& text) {
  absl::StrAppend(&text, "\n  reason ", Printable(detail.reason()));
  for (const auto& [key, value] : detail.metadata()) {
    absl::StrAppend(&text, ", ", Printable(key), " ", Printable(value));
  }
}

void AppendDetail(const google::protobuf::Any& any, std::string& text) {
  google::rpc::BadRequest bad_request;
  google::rpc::ErrorInfo error_info;
  google::rpc::RetryInfo retry;
  google::rpc::RequestInfo request;
  if (any.UnpackTo(&bad_request)) {
    AppendBadRequest(bad_request, text);
  } else if (any.UnpackTo(&error_info)) {
    AppendErrorInfo(error_info, text);
  } else if (any.UnpackTo(&retry)) {
    const auto& delay = retry.retry_delay();
    absl::StrAppend(&text, "\n  try again after ",
                    FormatSeconds(static_cast<double>(delay.seconds()) + delay.nanos() * 1e-9));
  } else if (any.UnpackTo(&request)) {
    absl::StrAppend(&text, "\n  request ", Printable(request.request_id()));
  }
}

}  // namespace

void AddServerFlag(CLI::App& command, std::string& server) {
  if (server.empty()) server = "127.0.0.1:50051";
  command.add_option("--server", server, "Address of tidegate-engine: HOST:PORT or unix:PATH")
      ->capture_default_str()
      ->envname("TIDEGATE_SERVER");
}

std::shared_ptr<grpc::Channel> Dial(const std::string& target) {
  return grpc::CreateChannel(target, grpc::InsecureChannelCredentials());
}

absl::Status ExplainError(const grpc::Status& status, const std::string& target,
                          const std::string& program) {
  if (status.ok()) return absl::OkStatus();
  std::string text =
      absl::StrCat(CodeName(status.error_code()), ": ", Printable(status.error_message()));
  google::rpc::Status details;
  if (!status.error_details().empty() && details.ParseFromString(status.error_details())) {
    for (const google::protobuf::Any& any : details.details()) AppendDetail(any, text);
  } else if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
    absl::StrAppend(&text, "\n  is ", program, " running at ", target, "?");
  }
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), text);
}

}  // namespace tidegate
