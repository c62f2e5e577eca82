#include "server/load_report.h"

#include <gtest/gtest.h>

#include <optional>

#include "grpcpp/test/server_context_test_spouse.h"
#include "tests/support/server_fixture.h"
#include "xds/data/orca/v3/orca_load_report.pb.h"

namespace tidegate::load_report_test {

using Report = xds::data::orca::v3::OrcaLoadReport;

Report Parsed(const std::string& bytes) {
  Report report;
  EXPECT_TRUE(report.ParseFromString(bytes));
  return report;
}

// The trailer that a call ends with; nothing if there is none. gRPC's own client keeps it from
// applications; tests/e2e/kserve.test.mjs sees it on the wire.
std::optional<std::string> Trailer(LoadReporter& reporter, bool asks) {
  grpc::ServerContext context;
  grpc::testing::ServerContextTestSpouse spouse(&context);
  if (asks) spouse.AddClientMetadata(kLoadReportAskKey, "bin");
  reporter.AddTo(context);
  const auto trailers = spouse.GetTrailingMetadata();
  const auto found = trailers.find(kLoadReportKey);
  if (found == trailers.end()) return std::nullopt;
  return found->second;
}

using LoadReportTest = ServerFixture;

TEST_F(LoadReportTest, SaysWhatTheEngineSays) {
  LoadReporter reporter(*engine_, metrics_.get(), false);
  const auto start = LoadReporter::Clock::now();
  EXPECT_EQ(Parsed(reporter.Report(start)).rps_fractional(), 0);
  metrics_->OnRequestDone(RpcMethod::kChat, absl::StatusCode::kOk, FinishReason::kMaxTokens);
  metrics_->OnRequestDone(RpcMethod::kChat, absl::StatusCode::kUnavailable);
  const Report report = Parsed(reporter.Report(start + std::chrono::hours(1)));
  EXPECT_GT(report.rps_fractional(), 0);
  EXPECT_NEAR(report.eps() * 2, report.rps_fractional(), 1e-9);
  EXPECT_GE(report.cpu_utilization(), 0);
  EXPECT_LE(report.cpu_utilization(), 1);
  EXPECT_GT(report.mem_utilization(), 0);
  EXPECT_LE(report.mem_utilization(), 1);
  for (const char* name : {"num_requests_running", "num_requests_waiting", "kv_cache_utilization",
                           "max_token_capacity", "prefix_cache_hit_rate"}) {
    EXPECT_TRUE(report.named_metrics().contains(name)) << name;
  }
}

TEST_F(LoadReportTest, GoesToThoseWhoAskOrToAll) {
  LoadReporter asked(*engine_, nullptr, /*always=*/false);
  EXPECT_FALSE(Trailer(asked, /*asks=*/false).has_value());
  const std::optional<std::string> trailer = Trailer(asked, /*asks=*/true);
  ASSERT_TRUE(trailer.has_value());
  EXPECT_EQ(Parsed(*trailer).named_metrics().at("num_requests_running"), 0);
  LoadReporter always(*engine_, nullptr, /*always=*/true);
  EXPECT_TRUE(Trailer(always, /*asks=*/false).has_value());
}

}  // namespace tidegate::load_report_test
