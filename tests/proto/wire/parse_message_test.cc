#include "proto/wire/parse_message.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/wire_bytes.h"
#include "tidegate/v1/generation.pb.h"

namespace tidegate::parse_message_test {

using testing::HasSubstr;
using namespace std::string_literals;

// Numbers of generation.proto.
constexpr uint32_t kText = 1, kTokenIds = 2, kMaxTokens = 4, kSampling = 5, kStop = 6,
                   kRequestId = 9;
constexpr uint32_t kLogitBias = 10;

WireFault FaultOf(std::string_view bytes) {
  v1::GenerateRequest request;
  return ParseMessage(bytes, request).value_or(WireFault{"(none)", ""});
}

TEST(ParseMessage, FillsTheMessage) {
  v1::GenerateRequest sent;
  sent.set_text("h\xc3\xa9\0llo"s);
  (*sent.mutable_sampling()->mutable_logit_bias())[7] = -1;
  v1::GenerateRequest request;
  EXPECT_FALSE(ParseMessage(sent.SerializeAsString(), request).has_value());
  EXPECT_EQ(request.SerializeAsString(), sent.SerializeAsString());
  EXPECT_FALSE(ParseMessage("", request).has_value());
  EXPECT_EQ(request.ByteSizeLong(), 0u);
}

TEST(ParseMessage, TextThatIsNoUtf8IsNamedWhereverItIs) {
  const std::string cut = "a" + std::string(kHalfAPair);
  const WireFault fault = FaultOf(WireField(kRequestId, "r-1") + WireField(kText, cut));
  EXPECT_EQ(fault.field, "text");
  EXPECT_THAT(fault.description, HasSubstr("UTF-8 at byte 1"));
  EXPECT_EQ(FaultOf(WireField(kStop, WireField(1, "good") + WireField(1, cut))).field,
            "stop.strings[1]");
  // Two messages of one field are one message, as protobuf merges them.
  EXPECT_EQ(
      FaultOf(WireField(kStop, WireField(1, "a")) + WireField(kStop, WireField(1, cut))).field,
      "stop.strings[0]");
  // The last of two texts would count, and yet both must be texts.
  EXPECT_EQ(FaultOf(WireField(kText, cut) + WireField(kText, "good")).field, "text");

  v1::ChatRequest chat;
  const std::string good = WireField(1, WireField(1, "user") + WireField(2, "Hi"));
  const std::string bad = WireField(1, WireField(1, "user") + WireField(2, "\xff"));
  EXPECT_EQ(ParseMessage(good + good + bad, chat)->field, "messages[2].content");
  EXPECT_EQ(ParseMessage(WireField(1, WireField(1, "\xc3")), chat)->field, "messages[0].role");
}

TEST(ParseMessage, CutAndMalformedBytesAreNamed) {
  const std::string ids = WireField(1, "\x05\x06");
  struct Case {
    std::string bytes, field, description;
  };
  const Case cases[] = {
      {WireField(kText, "hello").substr(0, 4), "text", "5 bytes are announced and 2 are there"},
      {WireKey(kText, 2), "text", "ends inside a number"},
      {WireKey(kText, 2) + WireVarint(uint64_t{1} << 33), "text", "announced and 0 are there"},
      {WireKey(kMaxTokens, 0), "max_tokens", "ends inside a number"},
      {WireKey(kMaxTokens, 0) + std::string(11, '\xff'), "max_tokens", "more than 10 bytes"},
      {WireField(kSampling, WireKey(1, 5) + "abc"), "sampling.temperature", "cut off"},
      {WireField(kSampling, "\x08"), "sampling.temperature", "ends inside"},  // a varint
      {WireField(kSampling, WireField(kLogitBias, WireKey(2, 5))), "sampling.logit_bias.value",
       "cut off"},
      {WireField(kTokenIds, WireField(1, "\x05\x80")), "token_ids.ids", "ends inside"},
      // A message that announces more than the one around it has.
      {WireKey(kTokenIds, 2) + WireVarint(2) + WireKey(1, 2) + WireVarint(9) + ids, "token_ids.ids",
       "9 bytes are announced and 0 are there"},
      {"\0"s, "tidegate.v1.GenerateRequest", "number 0"},
      {WireField(kSampling, "\x07"), "sampling", "wire type 7"},
      {std::string(6, '\xff'), "tidegate.v1.GenerateRequest", "more than 5 bytes"},
      {WireKey(kText, 4), "tidegate.v1.GenerateRequest", "end of a group"},
      {WireKey(99, 3), "(field 99)", "without an end"},
      {WireKey(99, 3) + WireKey(98, 4), "(field 99)", "another group's end"},
      {WireKey(99, 2) + WireVarint(5), "(field 99)", "cut off"},
  };
  for (const Case& c : cases) {
    const WireFault fault = FaultOf(c.bytes);
    EXPECT_EQ(fault.field, c.field) << c.description;
    EXPECT_THAT(fault.description, HasSubstr(c.description)) << c.field;
  }
}

TEST(ParseMessage, GroupsNestAsDeepAsProtobufAllows) {
  const auto nested = [](int depth) {
    std::string bytes;
    for (int i = 0; i < depth; ++i) bytes += WireKey(99, 3);
    for (int i = 0; i < depth; ++i) bytes += WireKey(99, 4);
    return bytes;
  };
  EXPECT_EQ(FaultOf(nested(100)).field, "(none)");
  EXPECT_THAT(FaultOf(nested(101)).description, HasSubstr("nested more than 100 deep"));
  EXPECT_THAT(FaultOf(nested(100000)).description, HasSubstr("nested more than 100 deep"));
}

TEST(ParseMessage, WhatProtobufAcceptsIsAccepted) {
  v1::GenerateRequest request;
  const std::string bytes =
      WireField(1000, "\xff\xfe") +                                   // an unknown field
      WireKey(1001, 3) + WireKey(1, 0) + "\x05" + WireKey(1001, 4) +  // an unknown group
      WireKey(kRequestId, 0) + "\x07" +                          // a number where a text belongs
      WireField(kText, "first") + WireField(kText, "last") +     // one field twice
      WireField(7, WireKey(1, 0) + WireVarint(77)) +             // an enum's unknown value
      WireKey(kMaxTokens, 0) + std::string(9, '\xff') + "\x01";  // more than 32 bits
  EXPECT_FALSE(ParseMessage(bytes, request).has_value());
  EXPECT_EQ(request.text(), "last");
  EXPECT_EQ(request.request_id(), "");
  EXPECT_EQ(static_cast<int>(request.pruning().mode()), 77);
}

TEST(ParseMessage, RefusedTextIsNotPrinted) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(FaultOf(WireField(kText, "\xff")).field, "text");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

}  // namespace tidegate::parse_message_test
