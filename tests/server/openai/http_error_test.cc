#include "server/openai/http_error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/violations.h"

namespace tidegate::http_error_test {

using testing::HasSubstr;

TEST(HttpErrorTest, FieldsHaveOpenAisNames) {
  Violations violations;
  violations.Add("sampling.temperature", "200 is outside [0, 100]");
  violations.Add("stop.strings[3]", "0 bytes; from 1 to 256");
  violations.Add("text", "0 bytes");
  const HttpResponse response = OpenAiError(violations.ToStatus(), {});
  EXPECT_EQ(response.code, 400);
  EXPECT_EQ(response.content_type, "application/json");
  EXPECT_EQ(response.body,
            R"({"error":{"message":"temperature: 200 is outside [0, 100]; stop[3]: 0 bytes; )"
            R"(from 1 to 256; prompt: 0 bytes","type":"invalid_request_error",)"
            R"("param":"temperature","code":null}})");
}

TEST(HttpErrorTest, CodesTellClientsWhetherToTryAgain) {
  const std::pair<absl::Status, int> cases[] = {
      {WithReason(absl::UnauthenticatedError("x"), "R"), 401},
      {WithReason(absl::PermissionDeniedError("x"), "R"), 403},
      {absl::NotFoundError("x"), 404},
      {absl::OutOfRangeError("x"), 400},
      {absl::FailedPreconditionError("x"), 400},
      {absl::CancelledError("x"), 499},
      {absl::DataLossError("x"), 500},
      {absl::DeadlineExceededError("x"), 504}};
  for (const auto& [status, code] : cases) {
    const HttpResponse response = OpenAiError(status, {});
    EXPECT_EQ(response.code, code);
    for (const auto& header : response.headers) EXPECT_NE(header.first, "Retry-After") << status;
  }
  for (const auto& [status, code] : {std::pair(absl::ResourceExhaustedError("x"), 429),
                                     std::pair(absl::UnavailableError("x"), 503)}) {
    const HttpResponse response = OpenAiError(status, {});
    EXPECT_EQ(response.code, code);
    ASSERT_FALSE(response.headers.empty());
    EXPECT_EQ(response.headers[0].first, "Retry-After");
  }
}

TEST(HttpErrorTest, ReasonsAreCodes) {
  EXPECT_THAT(OpenAiError(absl::ResourceExhaustedError("full"), {}).body,
              HasSubstr(R"("type":"rate_limit_error","param":null,"code":"queue_full")"));
  EXPECT_THAT(OpenAiError(absl::UnavailableError("x"), {"", true}).body,
              HasSubstr(R"("type":"server_error","param":null,"code":"draining")"));
  EXPECT_THAT(OpenAiError(absl::NotFoundError("no model"), {}).body,
              HasSubstr(R"("param":"model","code":"model_not_found")"));
}

TEST(HttpErrorTest, WhatIsNotForClientsIsNotTold) {
  const std::string body = OpenAiError(absl::InternalError("errno of /secret/file"), {}).body;
  EXPECT_EQ(body.find("secret"), std::string::npos) << body;
  EXPECT_THAT(body, HasSubstr(R"("type":"server_error")"));
}

TEST(HttpErrorTest, OfHttpItself) {
  const HttpResponse response = OpenAiHttpError(413, "request body too large\n");
  EXPECT_EQ(response.body, R"({"error":{"message":"request body too large",)"
                           R"("type":"invalid_request_error","param":null,"code":null}})");
}

}  // namespace tidegate::http_error_test
