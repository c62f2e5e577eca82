#include "base/error_reason.h"

#include <gtest/gtest.h>

namespace tidegate::error_reason_test {

TEST(ErrorReasonTest, TravelsBesideTheMessage) {
  const absl::Status plain = absl::InternalError("why");
  EXPECT_EQ(ErrorReason(plain), "");
  EXPECT_EQ(ErrorReason(absl::OkStatus()), "");
  const absl::Status status = WithErrorReason(WithErrorReason(plain, "FIRST"), "SECOND");
  EXPECT_EQ(ErrorReason(status), "SECOND");
  EXPECT_EQ(status.message(), "why");
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
}

TEST(ErrorReasonTest, SaysWhenToTryAgain) {
  const absl::Status plain = absl::ResourceExhaustedError("why");
  EXPECT_FALSE(RetryAfter(plain).has_value());
  EXPECT_FALSE(RetryAfter(absl::OkStatus()).has_value());
  const absl::Status status =
      WithRetryAfter(WithErrorReason(plain, "A"), std::chrono::milliseconds(1500));
  EXPECT_EQ(RetryAfter(status), std::chrono::milliseconds(1500));
  EXPECT_EQ(ErrorReason(status), "A");
}

}  // namespace tidegate::error_reason_test
