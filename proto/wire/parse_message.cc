#include "proto/wire/parse_message.h"

#include <cstdint>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/utf8.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/stubs/logging.h"

namespace tidegate {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

// Protobuf's own limits (encoding: protobuf.dev/programming-guides/encoding).
constexpr int kMaxDepth = 100;
constexpr int kMaxVarintBytes = 10, kMaxTagBytes = 5;

enum WireType : uint32_t {
  kVarint = 0,
  kFixed64 = 1,
  kBytes = 2,
  kGroup = 3,
  kEndGroup = 4,
  kFixed32 = 5,
};

WireType WireTypeOf(FieldDescriptor::Type type) {
  switch (type) {
    case FieldDescriptor::TYPE_DOUBLE:
    case FieldDescriptor::TYPE_FIXED64:
    case FieldDescriptor::TYPE_SFIXED64:
      return kFixed64;
    case FieldDescriptor::TYPE_FLOAT:
    case FieldDescriptor::TYPE_FIXED32:
    case FieldDescriptor::TYPE_SFIXED32:
      return kFixed32;
    case FieldDescriptor::TYPE_STRING:
    case FieldDescriptor::TYPE_BYTES:
    case FieldDescriptor::TYPE_MESSAGE:
      return kBytes;
    case FieldDescriptor::TYPE_GROUP:
      return kGroup;
    default:
      return kVarint;
  }
}

// Walks one message, and those inside it, until something is wrong. Every method answers whether to
// go on; fault() says why not.
class Walk {
 public:
  explicit Walk(const Descriptor& type) : type_(type) {}

  std::optional<WireFault> Run(std::string_view bytes) {
    Message(bytes, type_, "", 0);
    return std::move(fault_);
  }

 private:
  bool Fail(const std::string& path, std::string description) {
    fault_ = WireFault{path.empty() ? type_.full_name() : path, std::move(description)};
    return false;
  }

  // Takes a number of at most `max_bytes` bytes off the front.
  bool Number(std::string_view& rest, int max_bytes, const std::string& path, uint64_t& number) {
    number = 0;
    for (int i = 0; i < max_bytes; ++i) {
      if (rest.empty()) return Fail(path, "ends inside a number; send the whole message");
      const auto byte = static_cast<uint8_t>(rest.front());
      rest.remove_prefix(1);
      number |= uint64_t{byte & 0x7fu} << (7 * i);
      if (byte < 0x80) return true;
    }
    return Fail(path, absl::StrCat("has a number of more than ", max_bytes,
                                   " bytes; this is no protobuf message"));
  }

  bool Skip(std::string_view& rest, uint64_t bytes, const std::string& path) {
    if (bytes > rest.size()) {
      return Fail(path, absl::StrCat("is cut off: ", bytes, " bytes are announced and ",
                                     rest.size(), " are there; send the whole message"));
    }
    rest.remove_prefix(bytes);
    return true;
  }

  bool Tag(std::string_view& rest, const std::string& path, uint32_t& number, uint32_t& wire) {
    uint64_t tag = 0;
    if (!Number(rest, kMaxTagBytes, path, tag)) return false;
    number = static_cast<uint32_t>(tag) >> 3;
    wire = tag & 7;
    if (number != 0 && wire <= kFixed32) return true;
    return Fail(path, absl::StrCat("has a field of number ", number, " and wire type ", wire,
                                   "; this is no protobuf message"));
  }

  bool Message(std::string_view rest, const Descriptor& type, const std::string& path, int depth) {
    std::map<uint32_t, int> counts;  // of repeated fields, for their index
    while (!rest.empty()) {
      uint32_t number = 0, wire = 0;
      if (!Tag(rest, path, number, wire)) return false;
      if (wire == kEndGroup) {
        return Fail(path, "has the end of a group without its begin; this is no protobuf message");
      }
      const FieldDescriptor* field = type.FindFieldByNumber(static_cast<int>(number));
      std::string name = path.empty() ? "" : path + ".";
      if (field == nullptr) {
        absl::StrAppend(&name, "(field ", number, ")");
      } else if (field->is_repeated() && !field->is_map() && !field->is_packable()) {
        absl::StrAppend(&name, field->name(), "[", counts[number]++, "]");
      } else {
        absl::StrAppend(&name, field->name());
      }
      if (!Value(rest, field, number, wire, name, depth)) return false;
    }
    return true;
  }

  // `field`: null if unknown.
  bool Value(std::string_view& rest, const FieldDescriptor* field, uint32_t number, uint32_t wire,
             const std::string& path, int depth) {
    uint64_t value = 0;
    switch (wire) {
      case kVarint:
        return Number(rest, kMaxVarintBytes, path, value);
      case kFixed64:
        return Skip(rest, 8, path);
      case kFixed32:
        return Skip(rest, 4, path);
      case kGroup:
        return Group(rest, number, path, depth + 1);
      default:
        break;
    }
    if (!Number(rest, kMaxTagBytes, path, value)) return false;
    const std::string_view inside = rest.substr(0, value);
    return Skip(rest, value, path) && (field == nullptr || Bytes(inside, *field, path, depth));
  }

  bool Bytes(std::string_view bytes, const FieldDescriptor& field, const std::string& path,
             int depth) {
    switch (field.type()) {
      case FieldDescriptor::TYPE_STRING:
        return Text(bytes, path);
      case FieldDescriptor::TYPE_BYTES:
        return true;
      case FieldDescriptor::TYPE_MESSAGE:
        if (depth + 1 > kMaxDepth) return TooDeep(path);
        return Message(bytes, *field.message_type(), path, depth + 1);
      default:
        return !field.is_packable() || Packed(bytes, WireTypeOf(field.type()), path);
    }
  }

  bool Text(std::string_view text, const std::string& path) {
    for (size_t at = 0; at < text.size();) {
      const Utf8Step step = NextUtf8(text.substr(at));
      if (step.kind != Utf8Kind::kCharacter) {
        return Fail(path, absl::StrCat("is no valid UTF-8 at byte ", at,
                                       "; send whole characters (half of a surrogate pair, as "
                                       "cutting a string leaves it, is none)"));
      }
      at += step.bytes;
    }
    return true;
  }

  bool Packed(std::string_view bytes, WireType wire, const std::string& path) {
    uint64_t value = 0;
    while (!bytes.empty()) {
      const bool good = wire == kVarint ? Number(bytes, kMaxVarintBytes, path, value)
                                        : Skip(bytes, wire == kFixed64 ? 8 : 4, path);
      if (!good) return false;
    }
    return true;
  }

  bool Group(std::string_view& rest, uint32_t group, const std::string& path, int depth) {
    if (depth > kMaxDepth) return TooDeep(path);
    while (!rest.empty()) {
      uint32_t number = 0, wire = 0;
      if (!Tag(rest, path, number, wire)) return false;
      if (wire != kEndGroup) {
        if (!Value(rest, nullptr, number, wire, path, depth)) return false;
      } else if (number == group) {
        return true;
      } else {
        return Fail(path,
                    "is a group that another group's end closes; this is no protobuf message");
      }
    }
    return Fail(path, "is a group without an end; send the whole message");
  }

  bool TooDeep(const std::string& path) {
    return Fail(path, absl::StrCat("is nested more than ", kMaxDepth, " deep"));
  }

  const Descriptor& type_;
  std::optional<WireFault> fault_;
};

// protobuf writes a line to standard error for each text that it refuses: a peer could fill a log
// with them. The caller is told, so nothing is lost.
void SilenceProtobuf() {
  [[maybe_unused]] static const bool once = (google::protobuf::SetLogHandler(nullptr), true);
}

}  // namespace

std::optional<WireFault> ParseMessage(std::string_view bytes, google::protobuf::Message& message) {
  SilenceProtobuf();
  if (message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return std::nullopt;
  const Descriptor& type = *message.GetDescriptor();
  if (auto fault = Walk(type).Run(bytes)) return fault;
  return WireFault{type.full_name(), "is no message of this type"};
}

}  // namespace tidegate
