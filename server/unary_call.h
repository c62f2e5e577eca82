// What every call of gRPC has in common: how it ends. And a unary call, the same for every method:
// the request out of its bytes, a handler, the answer or a status with details, pushback metadata,
// metrics. Any thread of gRPC.
#pragma once

#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "grpcpp/grpcpp.h"
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
};

// Returns the reactor that a handler hands to gRPC. `response` is sent if `status` is OK.
grpc::ServerUnaryReactor* FinishUnary(const UnaryCall& call, const absl::Status& status,
                                      const google::protobuf::Message& response,
                                      const ServingState& state);

// `handle` runs if the request can be read.
template <typename Request, typename Response>
grpc::ServerUnaryReactor* AnswerUnary(
    const UnaryCall& call, const ServingState& state,
    absl::FunctionRef<absl::Status(const Request&, Response&)> handle) {
  Request request;
  Response response;
  absl::Status status = TakeRequest(*call.request, request);
  if (status.ok()) status = handle(request, response);
  return FinishUnary(call, status, response, state);
}

}  // namespace tidegate
