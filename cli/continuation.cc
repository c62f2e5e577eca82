#include "cli/continuation.h"

#include <vector>

#include "base/check.h"

namespace tidegate {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Field by field and not through bytes: what a flag said need not be UTF-8, and the server is to
// say so. Covers the types that options have.
void CopyField(const Message& from, const FieldDescriptor& source, const FieldDescriptor& target,
               Message& to) {
  const Reflection& get = *from.GetReflection();
  const Reflection& set = *to.GetReflection();
  CHECK(!source.is_repeated() && source.cpp_type() == target.cpp_type());
  switch (source.cpp_type()) {
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return set.MutableMessage(&to, &target)->CopyFrom(get.GetMessage(from, &source));
    case FieldDescriptor::CPPTYPE_STRING:
      return set.SetString(&to, &target, get.GetString(from, &source));
    case FieldDescriptor::CPPTYPE_BOOL:
      return set.SetBool(&to, &target, get.GetBool(from, &source));
    case FieldDescriptor::CPPTYPE_INT32:
      return set.SetInt32(&to, &target, get.GetInt32(from, &source));
    case FieldDescriptor::CPPTYPE_UINT32:
      return set.SetUInt32(&to, &target, get.GetUInt32(from, &source));
    default:
      CHECK(false);
  }
}

}  // namespace

v1::GenerateRequest ContinuationOf(const v1::ChatRequest& chat) {
  CHECK(chat.messages_size() > 0);
  v1::GenerateRequest request;
  std::vector<const FieldDescriptor*> fields;
  chat.GetReflection()->ListFields(chat, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->number() == v1::ChatRequest::kMessagesFieldNumber) continue;
    const FieldDescriptor* target =
        v1::GenerateRequest::descriptor()->FindFieldByName(field->name());
    CHECK(target != nullptr);
    CopyField(chat, *field, *target, request);
  }
  request.set_text(chat.messages(chat.messages_size() - 1).content());
  return request;
}

}  // namespace tidegate
