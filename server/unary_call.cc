#include "server/unary_call.h"

#include "absl/strings/str_cat.h"
#include "server/status_mapping.h"

namespace tidegate {

grpc::ServerUnaryReactor* FinishUnary(grpc::CallbackServerContext* context,
                                      const absl::Status& status, const ServingState& state,
                                      RpcMethod method) {
  if (state.metrics != nullptr) state.metrics->OnRequestDone(method, status.code());
  if (const auto delay = RetryDelay(status.code()); delay.has_value()) {
    context->AddTrailingMetadata(kRetryPushbackKey, absl::StrCat(delay->count()));
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(status.ok() ? grpc::Status::OK : ToGrpcStatus(status, {"", state.draining}));
  return reactor;
}

}  // namespace tidegate
