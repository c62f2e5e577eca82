// The end of a unary call, the same for every method: status with details, pushback metadata,
// metrics.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/grpcpp.h"
#include "server/serving_state.h"

namespace tidegate {

// Returns the reactor that a handler hands to gRPC.
grpc::ServerUnaryReactor* FinishUnary(grpc::CallbackServerContext* context,
                                      const absl::Status& status, const ServingState& state,
                                      RpcMethod method);

}  // namespace tidegate
