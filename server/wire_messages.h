// Requests and responses as gRPC hands them to raw handlers: bytes.
//
// Why not typed handlers: what protobuf refuses, gRPC's callback API answers with UNIMPLEMENTED and
// no text, before any code of ours runs. Thread-safe: free functions.
#pragma once

#include "absl/status/status.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/byte_buffer.h"

namespace tidegate {

// Of a request and of an answer: the largest prompt is 1 MiB of text, or as many ids as a context
// has; most clients take no larger answer.
inline constexpr int kMaxMessageBytes = 4 << 20;

// Fills `request` from the bytes of a call. INVALID_ARGUMENT with BadRequest that names the field
// which protobuf refuses. Gives the bytes back: gRPC would keep them, and the larger buffers that
// they arrived in, until the call ends, which for a stream may be hours.
absl::Status TakeRequest(const grpc::ByteBuffer& bytes, google::protobuf::Message& request);

grpc::ByteBuffer ToBytes(const google::protobuf::Message& response);

}  // namespace tidegate
