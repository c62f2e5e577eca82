// Reads google.rpc details back out of a gRPC status, as a client does.
#pragma once

#include <optional>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"

namespace tidegate {

// The detail of type T, if the status carries one.
template <typename T>
std::optional<T> DetailOf(const grpc::Status& status) {
  google::rpc::Status proto;
  if (!proto.ParseFromString(status.error_details())) return std::nullopt;
  for (const google::protobuf::Any& any : proto.details()) {
    T detail;
    if (any.UnpackTo(&detail)) return detail;
  }
  return std::nullopt;
}

}  // namespace tidegate
