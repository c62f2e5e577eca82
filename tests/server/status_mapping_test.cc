#include "server/status_mapping.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error_reason.h"
#include "base/text.h"
#include "engine/engine.h"
#include "server/access/key_limits.h"
#include "tests/support/error_details.h"

namespace tidegate::status_mapping_test {

using testing::HasSubstr;
using testing::Not;

TEST(StatusMapping, OkStaysOk) { EXPECT_TRUE(ToGrpcStatus(absl::OkStatus(), {}).ok()); }

TEST(StatusMapping, CodeAndMessageStayInBothPlaces) {
  const grpc::Status status = ToGrpcStatus(absl::NotFoundError("no such thing"), {});
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(status.error_message(), "no such thing");
  google::rpc::Status proto;
  ASSERT_TRUE(proto.ParseFromString(status.error_details()));
  EXPECT_EQ(proto.code(), 5);
  EXPECT_EQ(proto.message(), "no such thing");
  EXPECT_EQ(proto.details_size(), 0);
}

TEST(StatusMapping, WhatWasNotWrittenForClientsIsLoggedAndNotSent) {
  for (const absl::StatusCode code :
       {absl::StatusCode::kInternal, absl::StatusCode::kUnknown,
        absl::StatusCode::kPermissionDenied, absl::StatusCode::kUnimplemented,
        absl::StatusCode::kAborted}) {
    testing::internal::CaptureStderr();
    const grpc::Status status =
        ToGrpcStatus(absl::Status(code, "open /run/x.sock: EPERM"), {"r-1"});
    EXPECT_THAT(testing::internal::GetCapturedStderr(),
                HasSubstr("a request failed: " + absl::StatusCodeToString(code) +
                          ": open /run/x.sock: EPERM request_id=r-1"));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
    EXPECT_THAT(status.error_message(), Not(HasSubstr("/run/x.sock")));
    EXPECT_THAT(status.error_details(), Not(HasSubstr("/run/x.sock")));
    EXPECT_EQ(DetailOf<google::rpc::RequestInfo>(status)->request_id(), "r-1");
  }
  const absl::Status foreseen =
      WithReason(absl::InternalError("not a finite number"), "NOT_FINITE");
  EXPECT_EQ(ToGrpcStatus(foreseen, {}).error_message(), "not a finite number");
}

TEST(StatusMapping, MessagesAreBoundedUtf8) {
  const std::string bad = "cut \xc3\x1b[31m" + std::string(100000, 'x');
  const grpc::Status status = ToGrpcStatus(absl::NotFoundError(bad), {});
  EXPECT_TRUE(IsValidUtf8(status.error_message()));
  EXPECT_EQ(status.error_message().find('\x1b'), std::string::npos);
  EXPECT_LE(status.error_message().size(), 2000u);
  google::rpc::Status proto;
  ASSERT_TRUE(proto.ParseFromString(status.error_details()));
  EXPECT_EQ(proto.message(), status.error_message());
}

struct ImpliedCase {
  absl::StatusCode code;
  bool draining;
  const char* reason;
  double retry_seconds;  // 0: none
};
class ImpliedDetailsTest : public testing::TestWithParam<ImpliedCase> {};

TEST_P(ImpliedDetailsTest, AreAdded) {
  const ImpliedCase& c = GetParam();
  const grpc::Status status = ToGrpcStatus(absl::Status(c.code, "m"), {"", c.draining});
  const auto info = DetailOf<google::rpc::ErrorInfo>(status);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->reason(), c.reason);
  EXPECT_EQ(info->domain(), "tidegate");
  const auto retry = DetailOf<google::rpc::RetryInfo>(status);
  ASSERT_EQ(retry.has_value(), c.retry_seconds > 0);
  if (retry.has_value()) {
    EXPECT_DOUBLE_EQ(retry->retry_delay().seconds() + retry->retry_delay().nanos() * 1e-9,
                     c.retry_seconds);
    EXPECT_DOUBLE_EQ(RetryDelay(absl::Status(c.code, "m"))->count() * 1e-3, c.retry_seconds);
  }
  EXPECT_FALSE(DetailOf<google::rpc::RequestInfo>(status).has_value());
}
INSTANTIATE_TEST_SUITE_P(
    All, ImpliedDetailsTest,
    testing::Values(ImpliedCase{absl::StatusCode::kResourceExhausted, false, "QUEUE_FULL", 1},
                    ImpliedCase{absl::StatusCode::kUnavailable, false, "WEIGHT_STORE_UNAVAILABLE",
                                2},
                    ImpliedCase{absl::StatusCode::kUnavailable, true, "DRAINING", 2},
                    ImpliedCase{absl::StatusCode::kOutOfRange, false, "CONTEXT_LENGTH_EXCEEDED", 0},
                    ImpliedCase{absl::StatusCode::kDataLoss, false, "WEIGHTS_DAMAGED", 0}));

TEST(StatusMapping, TheReasonOfAnErrorIsToldWhateverItsCode) {
  const auto reason = [](absl::StatusCode code) {
    const absl::Status status = WithErrorReason(absl::Status(code, "m"), kNumbersNotFinite);
    return DetailOf<google::rpc::ErrorInfo>(ToGrpcStatus(status, {}))->reason();
  };
  EXPECT_EQ(reason(absl::StatusCode::kInternal), "NUMBERS_NOT_FINITE");
  EXPECT_EQ(reason(absl::StatusCode::kDataLoss), "NUMBERS_NOT_FINITE");
}

TEST(StatusMapping, OwnDetailsWinOverImpliedOnes) {
  const absl::Status status = WithReason(absl::UnavailableError("m"), "WARMING_UP");
  const auto info = DetailOf<google::rpc::ErrorInfo>(ToGrpcStatus(status, {}));
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->reason(), "WARMING_UP");
}

TEST(StatusMapping, CarriesAddedDetailsAndTheRequestId) {
  google::rpc::BadRequest bad;
  bad.add_field_violations()->set_field("max_tokens");
  absl::Status status = absl::InvalidArgumentError("m");
  AddDetail(bad, status);
  const grpc::Status mapped = ToGrpcStatus(status, {"r-1", false});
  EXPECT_EQ(DetailOf<google::rpc::BadRequest>(mapped)->field_violations(0).field(), "max_tokens");
  EXPECT_EQ(DetailOf<google::rpc::RequestInfo>(mapped)->request_id(), "r-1");
}

TEST(StatusMapping, ForeignPayloadsStayHome) {
  absl::Status status = absl::InternalError("m");
  status.SetPayload("internal/secret", absl::Cord("x"));
  google::rpc::Status proto;
  ASSERT_TRUE(proto.ParseFromString(ToGrpcStatus(status, {}).error_details()));
  EXPECT_EQ(proto.details_size(), 0);
}

TEST(RejectReasonOfTest, FollowsTheErrorsOfSubmit) {
  using absl::StatusCode;
  const auto reason = [](StatusCode code, bool draining = false) {
    return RejectReasonOf(absl::Status(code, "m"), draining);
  };
  EXPECT_EQ(reason(StatusCode::kResourceExhausted), RejectReason::kQueueFull);
  EXPECT_EQ(reason(StatusCode::kOutOfRange), RejectReason::kTooLong);
  EXPECT_EQ(reason(StatusCode::kUnavailable, true), RejectReason::kDraining);
  EXPECT_EQ(reason(StatusCode::kUnavailable), RejectReason::kUnavailable);
  EXPECT_EQ(reason(StatusCode::kInvalidArgument), RejectReason::kInvalid);
  EXPECT_EQ(reason(StatusCode::kUnauthenticated), RejectReason::kDenied);
  EXPECT_EQ(reason(StatusCode::kPermissionDenied), RejectReason::kDenied);
}

TEST(RejectReasonOfTest, TellsTheLimitsOfAKeyApart) {
  const auto reason = [](const char* why) {
    return RejectReasonOf(WithErrorReason(absl::ResourceExhaustedError("m"), why), false);
  };
  EXPECT_EQ(reason(kRequestRateLimit), RejectReason::kKeyRate);
  EXPECT_EQ(reason(kTokenRateLimit), RejectReason::kKeyRate);
  EXPECT_EQ(reason(kConcurrencyLimit), RejectReason::kKeyShare);
  EXPECT_EQ(reason(kQueueShareLimit), RejectReason::kKeyShare);
}

TEST(StatusMapping, ALimitOfAKeyIsAQuotaWithItsOwnTime) {
  const absl::Status status =
      WithRetryAfter(WithErrorReason(absl::ResourceExhaustedError("m"), kTokenRateLimit),
                     std::chrono::milliseconds(7500));
  const grpc::Status mapped = ToGrpcStatus(status, {});
  EXPECT_EQ(DetailOf<google::rpc::ErrorInfo>(mapped)->reason(), "TOKEN_RATE_LIMIT");
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(mapped)->violations(0).description(), "m");
  const auto retry = DetailOf<google::rpc::RetryInfo>(mapped);
  EXPECT_EQ(retry->retry_delay().seconds(), 7);
  EXPECT_EQ(retry->retry_delay().nanos(), 500000000);
  EXPECT_FALSE(
      DetailOf<google::rpc::QuotaFailure>(ToGrpcStatus(absl::ResourceExhaustedError("m"), {}))
          .has_value());
}

TEST(CancelStageOfTest, FollowsTheAccounts) {
  GenerationAccounts accounts;
  accounts.queue_seconds = 1;
  EXPECT_EQ(CancelStageOf(accounts), CancelStage::kQueued);
  accounts.prefill_seconds = 1;
  EXPECT_EQ(CancelStageOf(accounts), CancelStage::kPrefill);
  accounts.first_token_seconds = 2;
  EXPECT_EQ(CancelStageOf(accounts), CancelStage::kDecode);
}

}  // namespace tidegate::status_mapping_test
