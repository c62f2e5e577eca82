// A protobuf message as JSON for scripts: field names as in the .proto, all plain fields present,
// 64-bit numbers as numbers (protobuf's own JSON writes them as strings), bytes as arrays, NaN and
// infinities as null. Pure.
#pragma once

#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"

namespace tidegate {

nlohmann::ordered_json ProtoToJson(const google::protobuf::Message& message);

}  // namespace tidegate
