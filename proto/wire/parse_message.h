// Bytes of a peer as a protobuf message, or the field of them that is wrong.
//
// protobuf itself only says that it refuses. Here the bytes are then walked beside the message's
// type, and the first fault is named. No validator: what protobuf accepts is accepted (unknown
// fields, a known field with another wire type, unknown values of an enum). Knows no gRPC.
// Thread-safe, without state.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "google/protobuf/message.h"

namespace tidegate {

struct WireFault {
  std::string field;        // "messages[2].content"; the message's type where no field is to blame
  std::string description;  // What is wrong, and what would be right.
};

// Fills `message` from `bytes`; a fault if protobuf refuses them. `message` then holds what had
// been read before.
std::optional<WireFault> ParseMessage(std::string_view bytes, google::protobuf::Message& message);

}  // namespace tidegate
