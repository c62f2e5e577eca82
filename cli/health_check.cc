#include "cli/health_check.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/grpcpp.h"

namespace tidegate {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

absl::Status CheckHealth(const ServerTarget& server, const std::string& service,
                         std::chrono::milliseconds timeout, bool own_connection) {
  const auto stub = grpc::health::v1::Health::NewStub(Dial(server, own_connection));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + timeout);
  HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  const grpc::Status status = stub->Check(&context, request, &response);
  RETURN_IF_ERROR(ExplainError(status, server.address, "tidegate-engine"));
  if (response.status() == HealthCheckResponse::SERVING) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(
      "'", service, "' is ", HealthCheckResponse::ServingStatus_Name(response.status())));
}

}  // namespace tidegate
