#include "server/unary_call.h"

#include <iterator>

#include "absl/strings/str_cat.h"

namespace tidegate {
namespace {

// The server's deadline timer and the client's cancellation race when a deadline passes: a call
// that ends this close to its deadline is counted as late.
constexpr std::chrono::milliseconds kDeadlineSlack{50};

}  // namespace

grpc::Status ErrorOf(grpc::CallbackServerContext& context, const absl::Status& status,
                     const ErrorContext& error) {
  if (const auto delay = RetryDelay(status); delay.has_value()) {
    context.AddTrailingMetadata(kRetryPushbackKey, absl::StrCat(delay->count()));
  }
  return ToGrpcStatus(status, error);
}

absl::StatusCode CodeOfCancelledCall(const grpc::CallbackServerContext& context) {
  return context.deadline() <= std::chrono::system_clock::now() + kDeadlineSlack
             ? absl::StatusCode::kDeadlineExceeded
             : absl::StatusCode::kCancelled;
}

std::string_view OnlyMetadata(const grpc::CallbackServerContext& context, const char* key) {
  const auto range = context.client_metadata().equal_range(key);
  if (range.first == range.second || std::next(range.first) != range.second) return "";
  return {range.first->second.data(), range.first->second.size()};
}

grpc::ServerUnaryReactor* FinishUnary(const UnaryCall& call, const CallOrigin& origin,
                                      const absl::Status& status,
                                      const google::protobuf::Message& response,
                                      const ServingState& state) {
  if (state.metrics != nullptr) state.metrics->OnRequestDone(call.method, status.code());
  AuditCall(state.audit, call.method, origin, status, call.begun);
  if (status.ok()) *call.response = ToBytes(response);
  grpc::ServerUnaryReactor* reactor = call.context->DefaultReactor();
  reactor->Finish(status.ok() ? grpc::Status::OK
                              : ErrorOf(*call.context, status, {"", state.draining}));
  return reactor;
}

}  // namespace tidegate
