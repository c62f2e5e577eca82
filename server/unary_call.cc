#include "server/unary_call.h"

#include "absl/strings/str_cat.h"
#include "server/status_mapping.h"

namespace tidegate {

grpc::ServerUnaryReactor* FinishUnary(const UnaryCall& call, const absl::Status& status,
                                      const google::protobuf::Message& response,
                                      const ServingState& state) {
  if (state.metrics != nullptr) state.metrics->OnRequestDone(call.method, status.code());
  if (const auto delay = RetryDelay(status.code()); delay.has_value()) {
    call.context->AddTrailingMetadata(kRetryPushbackKey, absl::StrCat(delay->count()));
  }
  if (status.ok()) *call.response = ToBytes(response);
  grpc::ServerUnaryReactor* reactor = call.context->DefaultReactor();
  reactor->Finish(status.ok() ? grpc::Status::OK : ToGrpcStatus(status, {"", state.draining}));
  return reactor;
}

}  // namespace tidegate
