#include "cli/proto_json.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/terminal_text.h"

namespace tidegate {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Json = nlohmann::ordered_json;

Json Number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

// 0.2f is 0.2 and not 0.20000000298023224: the shortest text that means this float.
Json Number(float value) {
  char text[32];
  const std::to_chars_result end = std::to_chars(text, text + sizeof(text), value);
  double shortest = value;
  std::from_chars(text, end.ptr, shortest);
  return Number(shortest);
}

Json Text(const FieldDescriptor& field, const std::string& value) {
  if (field.type() != FieldDescriptor::TYPE_BYTES) return Json(value);
  Json bytes = Json::array();
  for (const char c : value) bytes.push_back(static_cast<uint8_t>(c));
  return bytes;
}

// The value of a field that is not repeated.
Json Single(const Message& message, const FieldDescriptor& field) {
  const google::protobuf::Reflection& r = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return Json(r.GetInt32(message, &field));
    case FieldDescriptor::CPPTYPE_INT64:
      return Json(r.GetInt64(message, &field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return Json(r.GetUInt32(message, &field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return Json(r.GetUInt64(message, &field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Number(r.GetDouble(message, &field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return Number(r.GetFloat(message, &field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return Json(r.GetBool(message, &field));
    case FieldDescriptor::CPPTYPE_ENUM:
      return Json(r.GetEnum(message, &field)->name());
    case FieldDescriptor::CPPTYPE_STRING:
      return Text(field, r.GetString(message, &field));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ProtoToJson(r.GetMessage(message, &field));
  }
  return Json(nullptr);
}

Json Repeated(const Message& message, const FieldDescriptor& field, int i) {
  const google::protobuf::Reflection& r = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return Json(r.GetRepeatedInt32(message, &field, i));
    case FieldDescriptor::CPPTYPE_INT64:
      return Json(r.GetRepeatedInt64(message, &field, i));
    case FieldDescriptor::CPPTYPE_UINT32:
      return Json(r.GetRepeatedUInt32(message, &field, i));
    case FieldDescriptor::CPPTYPE_UINT64:
      return Json(r.GetRepeatedUInt64(message, &field, i));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return Number(r.GetRepeatedDouble(message, &field, i));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return Number(r.GetRepeatedFloat(message, &field, i));
    case FieldDescriptor::CPPTYPE_BOOL:
      return Json(r.GetRepeatedBool(message, &field, i));
    case FieldDescriptor::CPPTYPE_ENUM:
      return Json(r.GetRepeatedEnum(message, &field, i)->name());
    case FieldDescriptor::CPPTYPE_STRING:
      return Text(field, r.GetRepeatedString(message, &field, i));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ProtoToJson(r.GetRepeatedMessage(message, &field, i));
  }
  return Json(nullptr);
}

}  // namespace

nlohmann::ordered_json ProtoToJson(const Message& message) {
  const google::protobuf::Descriptor& type = *message.GetDescriptor();
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  Json json = Json::object();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.is_repeated()) {
      Json values = Json::array();
      for (int j = 0; j < reflection.FieldSize(message, &field); ++j) {
        values.push_back(Repeated(message, field, j));
      }
      json[field.name()] = std::move(values);
    } else if (!field.has_presence() || reflection.HasField(message, &field)) {
      json[field.name()] = Single(message, field);
    }
  }
  return json;
}

std::string ProtoJsonForOutput(const Message& message) {
  return JsonForOutput(ProtoToJson(message));
}

}  // namespace tidegate
