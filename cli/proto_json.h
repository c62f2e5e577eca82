// A protobuf message as JSON for scripts: field names as in the .proto, all plain fields present,
// 64-bit numbers as numbers (protobuf's own JSON writes them as strings), bytes as arrays, NaN and
// infinities as null. Pure.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "google/protobuf/message.h"

namespace tidegate {

nlohmann::ordered_json ProtoToJson(const google::protobuf::Message& message);

// The same as text for standard output, see JsonForOutput().
std::string ProtoJsonForOutput(const google::protobuf::Message& message);

}  // namespace tidegate
