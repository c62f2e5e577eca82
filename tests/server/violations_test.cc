#include "server/violations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "server/status_mapping.h"
#include "tests/support/error_details.h"

namespace tidegate::violations_test {

google::rpc::BadRequest ReportOf(const Violations& violations) {
  const auto report = DetailOf<google::rpc::BadRequest>(ToGrpcStatus(violations.ToStatus(), {}));
  EXPECT_TRUE(report.has_value());
  return report.value_or(google::rpc::BadRequest());
}

TEST(ViolationsTest, OneIsTheWholeMessage) {
  Violations violations;
  EXPECT_TRUE(violations.empty());
  violations.Add("max_tokens", "0 is outside [1, 9]");
  EXPECT_FALSE(violations.empty());
  EXPECT_EQ(violations.ToStatus().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(violations.ToStatus().message(), "max_tokens: 0 is outside [1, 9]");
  const auto report = ReportOf(violations);
  ASSERT_EQ(report.field_violations_size(), 1);
  EXPECT_EQ(report.field_violations(0).field(), "max_tokens");
  EXPECT_EQ(report.field_violations(0).description(), "0 is outside [1, 9]");
}

TEST(ViolationsTest, MoreThanFitAreCounted) {
  Violations violations;
  for (int i = 0; i < 20; ++i) violations.Add(absl::StrCat("f", i), "is wrong");
  EXPECT_EQ(violations.ToStatus().message(), "f0: is wrong (and 19 more)");
  EXPECT_EQ(ReportOf(violations).field_violations_size(), 16);
}

TEST(ViolationsTest, DescriptionsAreOnePrintableLine) {
  Violations violations;
  violations.Add("messages", "a\x1b[31m\nb" + std::string(5000, 'x'));
  const std::string description = ReportOf(violations).field_violations(0).description();
  EXPECT_LE(description.size(), 1000u);
  EXPECT_EQ(description.find_first_of("\x1b\n"), std::string::npos);
}

}  // namespace tidegate::violations_test
