#include "base/error_reason.h"

#include <gtest/gtest.h>

namespace tidegate {
namespace {

TEST(ErrorReasonTest, TravelsBesideTheMessage) {
  const absl::Status plain = absl::InternalError("why");
  EXPECT_EQ(ErrorReason(plain), "");
  EXPECT_EQ(ErrorReason(absl::OkStatus()), "");
  const absl::Status status = WithErrorReason(WithErrorReason(plain, "FIRST"), "SECOND");
  EXPECT_EQ(ErrorReason(status), "SECOND");
  EXPECT_EQ(status.message(), "why");
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace tidegate
