#include "server/wire_messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/error_details.h"
#include "tests/support/raw_call.h"
#include "tests/support/server_fixture.h"
#include "tests/support/wire_bytes.h"

namespace tidegate::wire_messages_test {

using testing::HasSubstr;

// "/package.Service/Method" of everything that is served.
std::vector<std::string> Methods() {
  std::vector<std::string> methods;
  for (const google::protobuf::FileDescriptor* file :
       {v1::GenerateRequest::descriptor()->file(), v1::GetModelRequest::descriptor()->file()}) {
    for (int s = 0; s < file->service_count(); ++s) {
      const auto* service = file->service(s);
      for (int m = 0; m < service->method_count(); ++m) {
        methods.push_back("/" + service->full_name() + "/" + service->method(m)->name());
      }
    }
  }
  return methods;
}

std::string MethodName(const std::string& method) { return method.substr(method.rfind('/') + 1); }

class WireMessagesTest : public ServerFixture {
 protected:
  // The one field that a refused request blames.
  std::string BlamedField(const std::string& method, const std::string& bytes) {
    const RawAnswer answer = RawCall(channel_, method, {bytes});
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
    EXPECT_EQ(answer.messages, 0u);
    const auto details = DetailOf<google::rpc::BadRequest>(answer.status);
    if (!details || details->field_violations_size() != 1) return "(no violation)";
    const auto& violation = details->field_violations(0);
    EXPECT_EQ(answer.status.error_message(), violation.field() + ": " + violation.description());
    return violation.field();
  }
  bool Counted(const std::string& method, const std::string& code, int count) {
    return MetricAppears("tidegate_requests_total{model=\"tiny\",code=\"" + code +
                         "\",finish_reason=\"none\",method=\"" + method + "\"} " +
                         std::to_string(count));
  }
};

TEST_F(WireMessagesTest, EveryMethodRefusesWhatIsNoMessageAndCountsIt) {
  ASSERT_EQ(Methods().size(), 7u);
  for (const std::string& method : Methods()) {
    EXPECT_THAT(BlamedField(method, std::string(1, '\0')), HasSubstr("Request")) << method;
    EXPECT_EQ(BlamedField(method, WireKey(99, 2) + "\x05"), "(field 99)") << method;
    const RawAnswer none = RawCall(channel_, method, {});
    EXPECT_EQ(none.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
    EXPECT_THAT(none.status.error_message(), HasSubstr("the call has no message")) << method;
    EXPECT_TRUE(Counted(MethodName(method), "INVALID_ARGUMENT", 3)) << method;
  }
  EXPECT_TRUE(
      MetricAppears("tidegate_requests_rejected_total{model=\"tiny\",reason=\"invalid\"} 6"));
}

TEST_F(WireMessagesTest, TextThatIsNoUtf8IsNamedInEveryMethod) {
  const std::string cut = "a" + std::string(kHalfAPair);
  const std::string generation = "/tidegate.v1.GenerationService/";
  EXPECT_EQ(BlamedField(generation + "Generate", WireField(1, cut)), "text");
  EXPECT_EQ(BlamedField(generation + "Generate", WireField(1, "a") + WireField(3, cut)), "model");
  EXPECT_EQ(BlamedField(generation + "Chat",
                        WireField(1, WireField(2, "a")) + WireField(1, WireField(2, cut))),
            "messages[1].content");
  EXPECT_EQ(BlamedField(generation + "Tokenize", WireField(1, cut)), "text");
  EXPECT_EQ(BlamedField(generation + "Detokenize", WireField(2, cut)), "model");
  EXPECT_EQ(BlamedField(generation + "Generate", WireField(1, "a") + WireField(11, cut)),
            "cache_salt");
  EXPECT_EQ(BlamedField(generation + "Cancel", WireField(1, cut)), "request_id");
  EXPECT_EQ(BlamedField("/tidegate.v1.ModelService/GetModel", WireField(1, cut)), "model");
}

TEST_F(WireMessagesTest, AnEmptyMessageIsAMessage) {
  EXPECT_TRUE(RawCall(channel_, "/tidegate.v1.ModelService/ListModels", {""}).status.ok());
  EXPECT_TRUE(RawCall(channel_, "/tidegate.v1.GenerationService/Tokenize", {""}).status.ok());
  EXPECT_EQ(BlamedField("/tidegate.v1.GenerationService/Generate", ""), "prompt");
  EXPECT_EQ(BlamedField("/tidegate.v1.GenerationService/Cancel", ""), "request_id");
}

TEST_F(WireMessagesTest, UnknownFieldsAndValuesAreAsInProtobuf) {
  const std::string later = WireField(1000, "\xff");  // of a later version
  EXPECT_TRUE(RawCall(channel_, "/tidegate.v1.ModelService/ListModels", {later}).status.ok());
  // An enum's unknown value arrives and is refused by its name.
  EXPECT_EQ(BlamedField("/tidegate.v1.GenerationService/Generate",
                        WireField(1, "a") + WireField(7, WireKey(1, 0) + "\x4d")),
            "pruning.mode");
}

TEST_F(WireMessagesTest, TheLargestMessagesAreTakenAndLargerOnesRefused) {
  const std::string tokenize = "/tidegate.v1.GenerationService/Tokenize";
  const std::string four_mib(4 << 20, 'x');
  EXPECT_EQ(BlamedField(tokenize, WireField(1, four_mib.substr(16))), "text");
  EXPECT_EQ(RawCall(channel_, tokenize, {WireField(1, four_mib)}).status.error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(RawCall(channel_, tokenize, {WireField(1, "x")}).status.ok());
}

TEST_F(WireMessagesTest, ARequestIdThatCouldBeReadIsSaidBack) {
  const RawAnswer answer = RawCall(channel_, "/tidegate.v1.GenerationService/Generate",
                                   {WireField(9, "r-1") + WireField(1, "\xff")});
  EXPECT_EQ(DetailOf<google::rpc::RequestInfo>(answer.status)->request_id(), "r-1");
}

// Half a MiB of gzip is half a GiB of text, and gRPC unpacks before it looks at sizes.
TEST_F(WireMessagesTest, CompressedRequestsAreRefused) {
  v1::TokenizeRequest request;
  request.set_text(std::string(1 << 20, 'a'));
  for (const grpc_compression_algorithm algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    grpc::ClientContext context;
    context.set_compression_algorithm(algorithm);
    v1::TokenizeResponse response;
    const grpc::Status status = generation_->Tokenize(&context, request, &response);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
    EXPECT_THAT(status.error_message(), HasSubstr("disabled"));
  }
  grpc::ClientContext plain;
  v1::TokenizeResponse response;
  EXPECT_TRUE(generation_->Tokenize(&plain, request, &response).ok());
}

TEST_F(WireMessagesTest, AnswersTooLargeForAMessageAreRefusedByField) {
  v1::TokenizeRequest tokenize;
  tokenize.set_text(std::string(1 << 20, '~'));
  tokenize.set_with_pieces(true);
  EXPECT_EQ(BlamedField("/tidegate.v1.GenerationService/Tokenize", tokenize.SerializeAsString()),
            "text");
  EXPECT_TRUE(Counted("Tokenize", "INVALID_ARGUMENT", 1));
}

// The largest text, in tokens, can be made a text again.
TEST_F(WireMessagesTest, WhatTokenizeMakesDetokenizeTakes) {
  v1::TokenizeRequest tokenize;
  tokenize.set_text(std::string(1 << 20, '~'));
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  ASSERT_TRUE(generation_->Tokenize(&context, tokenize, &tokens).ok());
  EXPECT_GT(tokens.token_ids_size(), 1 << 20);
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  grpc::ClientContext second;
  const grpc::Status status = generation_->Detokenize(&second, detokenize, &text);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(text.text().ends_with(tokenize.text())) << text.text().size() << " bytes";
}

}  // namespace tidegate::wire_messages_test
