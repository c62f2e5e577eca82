#include "cli/continuation.h"

#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

namespace tidegate::continuation_test {

using google::protobuf::FieldDescriptor;

// Sets a field to something that is not its default.
void Set(const FieldDescriptor& field, google::protobuf::Message& message) {
  const google::protobuf::Reflection& set = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_MESSAGE: {
      google::protobuf::Message& inner = *set.MutableMessage(&message, &field);
      for (int i = 0; i < inner.GetDescriptor()->field_count(); ++i) {
        const FieldDescriptor& one = *inner.GetDescriptor()->field(i);
        if (!one.is_repeated()) Set(one, inner);
      }
      return;
    }
    case FieldDescriptor::CPPTYPE_STRING:
      return set.SetString(&message, &field, "\xff is no UTF-8");
    case FieldDescriptor::CPPTYPE_BOOL:
      return set.SetBool(&message, &field, true);
    case FieldDescriptor::CPPTYPE_ENUM:
      return set.SetEnumValue(&message, &field, 1);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return set.SetFloat(&message, &field, 0.5f);
    case FieldDescriptor::CPPTYPE_INT32:
      return set.SetInt32(&message, &field, -3);
    case FieldDescriptor::CPPTYPE_INT64:
      return set.SetInt64(&message, &field, 3);
    case FieldDescriptor::CPPTYPE_UINT32:
      return set.SetUInt32(&message, &field, 3);
    case FieldDescriptor::CPPTYPE_UINT64:
      return set.SetUInt64(&message, &field, 3);
    default:
      ADD_FAILURE() << field.full_name();
  }
}

std::string Value(const google::protobuf::Message& message, const FieldDescriptor& field) {
  std::string text;
  google::protobuf::TextFormat::PrintFieldValueToString(message, &field, -1, &text);
  return text;
}

TEST(ContinuationTest, EveryFieldOfAChatGoesOver) {
  const std::set<std::string> left_out = {"messages"};
  v1::ChatRequest chat;
  chat.add_messages()->set_content("the first");
  chat.add_messages()->set_content("the last");
  const google::protobuf::Descriptor& fields = *v1::ChatRequest::descriptor();
  for (int i = 0; i < fields.field_count(); ++i) {
    if (!left_out.contains(fields.field(i)->name())) Set(*fields.field(i), chat);
  }
  const v1::GenerateRequest request = ContinuationOf(chat);
  EXPECT_EQ(request.text(), "the last");
  for (int i = 0; i < fields.field_count(); ++i) {
    const FieldDescriptor& field = *fields.field(i);
    if (left_out.contains(field.name())) continue;
    const FieldDescriptor* same = v1::GenerateRequest::descriptor()->FindFieldByName(field.name());
    ASSERT_NE(same, nullptr) << field.name();
    EXPECT_EQ(Value(request, *same), Value(chat, field)) << field.name();
  }
}

TEST(ContinuationTest, AllThatAGenerateRequestHasIsOfAChatOrThePrompt) {
  const std::set<std::string> prompt = {"text", "token_ids"};
  const google::protobuf::Descriptor& fields = *v1::GenerateRequest::descriptor();
  for (int i = 0; i < fields.field_count(); ++i) {
    const FieldDescriptor& field = *fields.field(i);
    if (prompt.contains(field.name())) continue;
    const FieldDescriptor* same = v1::ChatRequest::descriptor()->FindFieldByName(field.name());
    ASSERT_NE(same, nullptr) << field.name();
    EXPECT_EQ(same->number(), field.number()) << field.name();
    EXPECT_EQ(same->type(), field.type()) << field.name();
  }
}

TEST(ContinuationTest, WhatIsNotSetStaysSo) {
  v1::ChatRequest chat;
  chat.add_messages()->set_content("a");
  v1::GenerateRequest expected;
  expected.set_text("a");
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(ContinuationOf(chat), expected));
}

}  // namespace tidegate::continuation_test
