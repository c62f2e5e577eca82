// What every call of gRPC has in common: how it ends. And a unary call, the same for every method:
// whether the caller may make it, the request out of its bytes, a handler, the answer or a status
// with details, pushback metadata, metrics, the audit log. Any thread of gRPC.
#pragma once

#include <chrono>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "grpcpp/grpcpp.h"
#include "server/call_access.h"
#include "server/serving_state.h"
#include "server/status_mapping.h"
#include "server/wire_messages.h"

namespace tidegate {

// ToGrpcStatus() of an error, with kRetryPushbackKey in the call's metadata where it says when to
// come again. Before Finish().
grpc::Status ErrorOf(grpc::CallbackServerContext& context, const absl::Status& status,
                     const ErrorContext& error);

// In OnCancel(): DEADLINE_EXCEEDED or CANCELLED.
absl::StatusCode CodeOfCancelledCall(const grpc::CallbackServerContext& context);

// The only value of metadata `key`, valid as long as `context`; "" for none or several.
std::string_view OnlyMetadata(const grpc::CallbackServerContext& context, const char* key);

// As gRPC gives it to the handlers of one method.
struct UnaryCall {
  grpc::CallbackServerContext* context;
  const grpc::ByteBuffer* request;
  grpc::ByteBuffer* response;
  RpcMethod method;
  std::chrono::steady_clock::time_point begun = std::chrono::steady_clock::now();
};

// Returns the reactor that a handler hands to gRPC. `response` is sent if `status` is OK.
grpc::ServerUnaryReactor* FinishUnary(const UnaryCall& call, const CallOrigin& origin,
                                      const absl::Status& status,
                                      const google::protobuf::Message& response,
                                      const ServingState& state);

// `handle` runs if the caller may make the call and the request can be read.
template <typename Request, typename Response>
grpc::ServerUnaryReactor* AnswerCaller(
    const UnaryCall& call, const ServingState& state,
    absl::FunctionRef<absl::Status(const Request&, Response&, const Caller&)> handle) {
  Request request;
  Response response;
  CallOrigin origin;
  absl::Status status = AuthorizeCall(state.access, *call.context, call.method, origin);
  if (status.ok()) status = TakeRequest(*call.request, request);
  if (status.ok()) status = handle(request, response, origin.caller);
  return FinishUnary(call, origin, status, response, state);
}

// The same for a handler that does not look at who calls.
template <typename Request, typename Response>
grpc::ServerUnaryReactor* AnswerUnary(
    const UnaryCall& call, const ServingState& state,
    absl::FunctionRef<absl::Status(const Request&, Response&)> handle) {
  return AnswerCaller<Request, Response>(
      call, state,
      [&handle](const Request& in, Response& out, const Caller&) { return handle(in, out); });
}

}  // namespace tidegate
