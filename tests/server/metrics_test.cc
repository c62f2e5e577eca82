#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error_reason.h"
#include "tests/support/metrics_text.h"

namespace tidegate::metrics_test {

using ::testing::HasSubstr;
using ::testing::Not;

// Answers what a test puts in; nothing is decoded.
class FakeEngine : public Engine {
 public:
  absl::StatusOr<uint64_t> SubmitChoices(GenerationRequest,
                                         std::vector<std::shared_ptr<GenerationSink>>) override {
    return absl::UnimplementedError("not used by metrics");
  }
  void Cancel(uint64_t) override {}
  void Drain(std::chrono::steady_clock::time_point) override {}
  bool ready() const override { return stats_.attached && !stats_.draining; }
  EngineStats stats() const override { return stats_; }
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer() const override {
    return absl::UnavailableError("not used by metrics");
  }
  absl::StatusOr<ModelInfo> model_info() const override {
    if (!info_) return absl::UnavailableError("never attached");
    return *info_;
  }
  uint32_t context_tokens() const override { return 0; }
  const PruningBounds& pruning_bounds() const override { return bounds_; }

  EngineStats stats_;
  std::optional<ModelInfo> info_;

 private:
  PruningBounds bounds_;
};

class EngineMetricsTest : public testing::Test {
 protected:
  void SetUp() override {
    auto server = MetricsServer::Create("127.0.0.1:0");
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    metrics_ = std::make_unique<EngineMetrics>(*server_);
  }
  // The value of tidegate_`series`, which must exist.
  double Value(const std::string& series) const {
    const auto value = SampleValue(server_->Render(), "tidegate_" + series);
    EXPECT_TRUE(value.has_value()) << "no series tidegate_" << series;
    return value.value_or(-1);
  }
  double Requests(const std::string& method, const std::string& code, const std::string& reason) {
    return Value("requests_total{model=\"\",method=\"" + method + "\",code=\"" + code +
                 "\",finish_reason=\"" + reason + "\"}");
  }

  std::unique_ptr<MetricsServer> server_;
  std::unique_ptr<EngineMetrics> metrics_;
};

TEST_F(EngineMetricsTest, ShowsWhatRequestsGetThatLeavePruningToTheServer) {
  FakeEngine engine;
  metrics_->AttachEngine(&engine);
  EXPECT_NEAR(Value(R"(pruning_density_ratio{model=""})"), 0.75, 1e-6);
  EXPECT_NEAR(Value(R"(pruning_gamma_ratio{model=""})"), 0.2, 1e-6);
  EXPECT_EQ(Value(R"(ladder_points{model=""})"), 0);
  engine.stats_.steering = {.points = 5,
                            .position = 3,
                            .density = 0.6,
                            .gamma = 0.5,
                            .predicted_perplexity_increase = 0.04,
                            .target_tokens_per_second = 9,
                            .tokens_per_second = 9.5,
                            .moves = 7};
  EXPECT_EQ(Value(R"(pruning_density_ratio{model=""})"), 0.6);
  EXPECT_EQ(Value(R"(pruning_gamma_ratio{model=""})"), 0.5);
  EXPECT_EQ(Value(R"(ladder_points{model=""})"), 5);
  EXPECT_EQ(Value(R"(ladder_position{model=""})"), 3);
  EXPECT_EQ(Value(R"(ladder_moves_total{model=""})"), 7);
  EXPECT_EQ(Value(R"(predicted_perplexity_increase_ratio{model=""})"), 0.04);
  EXPECT_EQ(Value(R"(target_tokens_per_second{model=""})"), 9);
  EXPECT_EQ(Value(R"(steered_tokens_per_second{model=""})"), 9.5);
  metrics_->AttachEngine(nullptr);
}

TEST_F(EngineMetricsTest, EverySeriesExistsBeforeTheFirstEvent) {
  EXPECT_EQ(Requests("Generate", "OK", "max_tokens"), 0);
  EXPECT_EQ(Requests("Generate", "RESOURCE_EXHAUSTED", "none"), 0);
  EXPECT_EQ(Requests("ListModels", "OK", "none"), 0);
  EXPECT_EQ(Value(R"(requests_rejected_total{model="",reason="queue_full"})"), 0);
  EXPECT_EQ(Value(R"(cancellations_total{model="",stage="prefill"})"), 0);
  EXPECT_EQ(Value(R"(requests_running{model=""})"), 0);
  EXPECT_EQ(Value(R"(time_to_first_token_seconds_count{model=""})"), 0);
  EXPECT_EQ(Value(R"(kv_cache_usage_ratio{model=""})"), 0);
  EXPECT_EQ(Value(R"(state{model="",state="loading"})"), 1);
  EXPECT_EQ(Value(R"(store_attached{model=""})"), 0);
}

TEST_F(EngineMetricsTest, NoEventAddsASeries) {
  const size_t lines_before = MetricsShape(server_->Render()).size();
  const std::string before = server_->Render();
  metrics_->OnRequestDone(RpcMethod::kGenerate, absl::StatusCode::kOk, FinishReason::kStopString);
  metrics_->OnRequestDone(RpcMethod::kTokenize, absl::StatusCode::kInternal);
  metrics_->OnRequestDone(RpcMethod::kGenerate, static_cast<absl::StatusCode>(99));
  metrics_->OnDecodedToken(1, 0.5, 0.5);
  const std::string after = server_->Render();
  EXPECT_EQ(std::count(before.begin(), before.end(), '\n'),
            std::count(after.begin(), after.end(), '\n'));
  EXPECT_EQ(MetricsShape(after).size(), lines_before);
}

TEST_F(EngineMetricsTest, RequestsAreCountedByMethodCodeAndReason) {
  metrics_->OnRequestDone(RpcMethod::kGenerate, absl::StatusCode::kOk, FinishReason::kEndOfText);
  metrics_->OnRequestDone(RpcMethod::kGenerate, absl::StatusCode::kOk, FinishReason::kEndOfText);
  metrics_->OnRequestDone(RpcMethod::kGenerate, absl::StatusCode::kCancelled,
                          FinishReason::kCancelled);
  metrics_->OnRequestDone(RpcMethod::kGenerate, absl::StatusCode::kInvalidArgument);
  metrics_->OnRequestDone(RpcMethod::kDetokenize, absl::StatusCode::kOk);
  EXPECT_EQ(Requests("Generate", "OK", "end_of_text"), 2);
  EXPECT_EQ(Requests("Generate", "CANCELLED", "cancelled"), 1);
  EXPECT_EQ(Requests("Generate", "INVALID_ARGUMENT", "none"), 1);
  EXPECT_EQ(Requests("Detokenize", "OK", "none"), 1);
}

TEST_F(EngineMetricsTest, CombinationsThatCannotBeAreStillCounted) {
  metrics_->OnRequestDone(RpcMethod::kGenerate, absl::StatusCode::kOk, FinishReason::kError);
  EXPECT_EQ(Requests("Generate", "OK", "none"), 1);
  metrics_->OnRequestDone(RpcMethod::kTokenize, absl::StatusCode::kOk, FinishReason::kStopToken);
  EXPECT_EQ(Requests("Tokenize", "OK", "none"), 1);
  metrics_->OnRequestDone(RpcMethod::kGenerate, static_cast<absl::StatusCode>(-3));
  EXPECT_EQ(Requests("Generate", "UNKNOWN", "none"), 1);
}

TEST_F(EngineMetricsTest, RejectionsAndCancellations) {
  metrics_->OnRejected(RejectReason::kTooLong);
  metrics_->OnRejected(RejectReason::kQueueFull);
  metrics_->OnRejected(RejectReason::kQueueFull);
  metrics_->OnCancelled(CancelStage::kDecode);
  EXPECT_EQ(Value(R"(requests_rejected_total{model="",reason="too_long"})"), 1);
  EXPECT_EQ(Value(R"(requests_rejected_total{model="",reason="queue_full"})"), 2);
  EXPECT_EQ(Value(R"(requests_rejected_total{model="",reason="invalid"})"), 0);
  EXPECT_EQ(Value(R"(cancellations_total{model="",stage="decode"})"), 1);
}

TEST_F(EngineMetricsTest, TokenHistograms) {
  metrics_->OnFirstToken(0.3);
  metrics_->OnTokenGap(79);
  metrics_->OnDecodedToken(3 << 16, 0.5, 1.0);
  EXPECT_EQ(Value(R"(time_to_first_token_seconds_bucket{model="",le="0.25"})"), 0);
  EXPECT_EQ(Value(R"(time_to_first_token_seconds_bucket{model="",le="0.5"})"), 1);
  EXPECT_EQ(Value(R"(inter_token_latency_seconds_bucket{model="",le="80"})"), 1);
  EXPECT_EQ(Value(R"(inter_token_latency_seconds_bucket{model="",le="40"})"), 0);
  EXPECT_EQ(Value(R"(flash_bytes_per_token_bucket{model="",le="131072"})"), 0);
  EXPECT_EQ(Value(R"(flash_bytes_per_token_bucket{model="",le="262144"})"), 1);
  EXPECT_EQ(Value(R"(flash_bytes_per_token_bucket{model="",le="65536"})"), 0);
  EXPECT_EQ(Value(R"(flash_bytes_per_token_bucket{model="",le="8589934592"})"), 1);
  EXPECT_EQ(Value(R"(dip_density_ratio_bucket{model="",matrix="gate_up",le="0.5"})"), 1);
  EXPECT_EQ(Value(R"(dip_density_ratio_bucket{model="",matrix="gate_up",le="0.45"})"), 0);
  EXPECT_EQ(Value(R"(dip_density_ratio_bucket{model="",matrix="down",le="0.95"})"), 0);
  EXPECT_EQ(Value(R"(dip_density_ratio_bucket{model="",matrix="down",le="1"})"), 1);
}

TEST_F(EngineMetricsTest, FinishedRequestsFillTheirHistograms) {
  GenerationResult result;
  result.reason = FinishReason::kMaxTokens;
  result.accounts.generated_tokens = 5;
  result.accounts.queue_seconds = 1;
  result.accounts.prefill_seconds = 2;
  result.accounts.first_token_seconds = 3.5;
  result.accounts.decode_seconds = 8;
  metrics_->OnFinished(result);
  EXPECT_EQ(Value(R"(request_queue_seconds_sum{model=""})"), 1);
  EXPECT_EQ(Value(R"(request_prefill_seconds_sum{model=""})"), 2);
  EXPECT_EQ(Value(R"(request_decode_seconds_sum{model=""})"), 8);
  EXPECT_EQ(Value(R"(request_duration_seconds_sum{model=""})"), 11.5);
  EXPECT_EQ(Value(R"(time_per_output_token_seconds_sum{model=""})"), 2);
}

TEST_F(EngineMetricsTest, RequestWithoutTokensIsNoDecode) {
  GenerationResult result;
  result.reason = FinishReason::kCancelled;
  result.accounts.queue_seconds = 4;
  metrics_->OnFinished(result);
  EXPECT_EQ(Value(R"(request_duration_seconds_sum{model=""})"), 4);
  EXPECT_EQ(Value(R"(request_decode_seconds_count{model=""})"), 0);
  EXPECT_EQ(Value(R"(time_per_output_token_seconds_count{model=""})"), 0);
  EXPECT_EQ(Value(R"(cancellations_total{model="",stage="queued"})"), 0) << "counted twice";
}

TEST_F(EngineMetricsTest, StreamsThatEndedForTheirNumbersAreCounted) {
  GenerationResult result;
  result.status = absl::InternalError("something else");
  metrics_->OnFinished(result);
  EXPECT_EQ(Value(R"(not_finite_total{model=""})"), 0);
  result.status = WithErrorReason(result.status, kNumbersNotFinite);
  metrics_->OnFinished(result);
  EXPECT_EQ(Value(R"(not_finite_total{model=""})"), 1);
}

TEST_F(EngineMetricsTest, GaugesFollowTheEngine) {
  FakeEngine engine;
  metrics_->AttachEngine(&engine);
  EXPECT_EQ(Value(R"(state{model="",state="loading"})"), 1);
  EXPECT_THAT(server_->Render(), Not(HasSubstr("tidegate_model_info")));

  engine.stats_ = {.attached = true,
                   .draining = false,
                   .reattached = 2,
                   .running = 3,
                   .waiting = 4,
                   .prompt_tokens = 100,
                   .generated_tokens = 200,
                   .kv_tokens_used = 64,
                   .kv_tokens_capacity = 256,
                   .stall_seconds_prefill = 0.5,
                   .stall_seconds_decode = 1.5,
                   .prefix = {},
                   .steering = {}};
  engine.info_.emplace();
  engine.info_->name = "demo";
  engine.info_->architecture = "llama";
  engine.info_->unit_encoding = "q8";
  engine.info_->pack_uuid = "0123";
  engine.info_->static_bytes = 10;
  engine.info_->streamed_bytes = 20;
  EXPECT_EQ(Value(R"(state{model="demo",state="ready"})"), 1);
  EXPECT_EQ(Value(R"(requests_rejected_total{model="demo",reason="queue_full"})"), 0);
  EXPECT_EQ(Value(R"(dip_density_ratio_bucket{model="demo",matrix="down",le="1"})"), 0);
  EXPECT_EQ(Value(R"(state{model="demo",state="loading"})"), 0);
  EXPECT_EQ(Value(R"(store_attached{model="demo"})"), 1);
  EXPECT_EQ(Value(R"(store_reattaches_total{model="demo"})"), 2);
  EXPECT_EQ(Value(R"(requests_running{model="demo"})"), 3);
  EXPECT_EQ(Value(R"(requests_waiting{model="demo"})"), 4);
  EXPECT_EQ(Value(R"(prompt_tokens_total{model="demo"})"), 100);
  EXPECT_EQ(Value(R"(generation_tokens_total{model="demo"})"), 200);
  EXPECT_EQ(Value(R"(kv_cache_usage_ratio{model="demo"})"), 0.25);
  EXPECT_EQ(Value(R"(kv_cache_tokens{model="demo",state="capacity"})"), 256);
  EXPECT_EQ(Value(R"(flash_stall_seconds_total{model="demo",phase="prefill"})"), 0.5);
  EXPECT_EQ(Value(R"(flash_stall_seconds_total{model="demo",phase="decode"})"), 1.5);
  EXPECT_EQ(Value(R"(model_bytes{model="demo",part="streamed"})"), 20);
  EXPECT_EQ(
      Value(R"(model_info{model="demo",architecture="llama",unit_encoding="q8",pack_uuid="0123"})"),
      1);

  engine.stats_.draining = true;
  EXPECT_EQ(Value(R"(state{model="demo",state="draining"})"), 1);
  EXPECT_EQ(Value(R"(state{model="demo",state="ready"})"), 0);
  metrics_->AttachEngine(nullptr);
}

TEST_F(EngineMetricsTest, CountersStayWhenTheEngineGoes) {
  {
    FakeEngine engine;
    engine.stats_.attached = true;
    engine.stats_.running = 1;
    metrics_->AttachEngine(&engine);
    engine.stats_.generated_tokens = 7;
    metrics_->AttachEngine(nullptr);
  }
  EXPECT_EQ(Value(R"(generation_tokens_total{model=""})"), 7);
  EXPECT_EQ(Value(R"(requests_running{model=""})"), 0);
  EXPECT_EQ(Value(R"(store_attached{model=""})"), 0);
  EXPECT_EQ(Value(R"(state{model="",state="draining"})"), 1);
}

TEST_F(EngineMetricsTest, ServerMayOutliveTheMetrics) {
  FakeEngine engine;
  metrics_->AttachEngine(&engine);
  metrics_.reset();
  EXPECT_EQ(Value(R"(requests_running{model=""})"), 0);
}

}  // namespace tidegate::metrics_test
