#include "server/load_report.h"

#include <gtest/gtest.h>

#include "tests/support/server_fixture.h"
#include "xds/data/orca/v3/orca_load_report.pb.h"

namespace tidegate::load_report_test {

using Report = xds::data::orca::v3::OrcaLoadReport;

Report Parsed(const std::string& bytes) {
  Report report;
  EXPECT_TRUE(report.ParseFromString(bytes));
  return report;
}

class LoadReportTest : public ServerFixture {
 protected:
  // The trailer of a stream that ends well; nothing if there is none.
  std::optional<std::string> Trailer(grpc::ClientContext& context) {
    v1::GenerateRequest request;
    request.set_text("a");
    const auto reader = generation_->Generate(&context, request);
    engine_->End(engine_->WaitForRequest(), FinishReason::kMaxTokens);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
    }
    EXPECT_TRUE(reader->Finish().ok());
    const auto& trailers = context.GetServerTrailingMetadata();
    const auto found = trailers.find(kLoadReportKey);
    if (found == trailers.end()) return std::nullopt;
    return std::string(found->second.data(), found->second.size());
  }
};

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

TEST_F(LoadReportTest, GoesToThoseWhoAsk) {
  grpc::ClientContext silent;
  EXPECT_FALSE(Trailer(silent).has_value());
  grpc::ClientContext asking;
  asking.AddMetadata(kLoadReportAskKey, "bin");
  const std::optional<std::string> trailer = Trailer(asking);
  ASSERT_TRUE(trailer.has_value());
  EXPECT_EQ(Parsed(*trailer).named_metrics().at("num_requests_running"), 0);
}

class AllLoadReportsTest : public LoadReportTest {
 protected:
  void Adjust(ServerOptions& options) override { options.orca_trailers = true; }
};

TEST_F(AllLoadReportsTest, GoToAll) {
  grpc::ClientContext context;
  EXPECT_TRUE(Trailer(context).has_value());
}

}  // namespace tidegate::load_report_test
