#include "server/wire_messages.h"

#include "base/check.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "proto/wire/parse_message.h"
#include "server/violations.h"

namespace tidegate {
namespace {

// INVALID_ARGUMENT where a call ends without a message.
std::optional<WireFault> Parse(const grpc::ByteBuffer& bytes, google::protobuf::Message& request) {
  grpc::Slice whole;
  if (!bytes.Valid() ||
      (!bytes.TrySingleSlice(&whole).ok() && !bytes.DumpToSingleSlice(&whole).ok())) {
    return WireFault{request.GetDescriptor()->full_name(), "is missing: the call has no message"};
  }
  return ParseMessage({reinterpret_cast<const char*>(whole.begin()), whole.size()}, request);
}

}  // namespace

absl::Status TakeRequest(const grpc::ByteBuffer& bytes, google::protobuf::Message& request) {
  const std::optional<WireFault> fault = Parse(bytes, request);
  // The buffer is gRPC's own and not const there; handlers see it so.
  const_cast<grpc::ByteBuffer&>(bytes).Clear();
  if (!fault) return absl::OkStatus();
  Violations violations;
  violations.Add(fault->field, fault->description);
  return violations.ToStatus();
}

grpc::ByteBuffer ToBytes(const google::protobuf::Message& response) {
  grpc::ByteBuffer bytes;
  bool own = false;
  CHECK(
      grpc::SerializationTraits<google::protobuf::Message>::Serialize(response, &bytes, &own).ok());
  return bytes;
}

}  // namespace tidegate
