#include "server/metrics_vllm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/metrics.h"
#include "tests/support/fake_engine.h"
#include "tests/support/metrics_text.h"

namespace tidegate::metrics_vllm_test {

using testing::HasSubstr;
using testing::Not;

TEST(MetricsVllmTest, TheSameNumbersUnderBothNames) {
  auto server = MetricsServer::Create("127.0.0.1:0");
  ASSERT_TRUE(server.ok()) << server.status();
  EngineMetrics metrics(**server, /*vllm_names=*/true);
  FakeEngine engine;
  metrics.AttachEngine(&engine);
  metrics.OnFirstToken(0.5);
  metrics.OnRequestDone(RpcMethod::kGenerate, absl::StatusCode::kOk, FinishReason::kStopString);
  metrics.OnRequestDone(RpcMethod::kChat, absl::StatusCode::kOk, FinishReason::kEndOfText);
  metrics.OnRequestDone(RpcMethod::kChat, absl::StatusCode::kOk, FinishReason::kMaxTokens);
  metrics.OnRequestDone(RpcMethod::kTokenize, absl::StatusCode::kOk);
  const std::string page = (*server)->Render();
  const auto value = [&page](const std::string& name, const std::string& more = "") {
    return SampleValue(page, "vllm:" + name + "{engine=\"0\",model_name=\"tiny\"" + more + "}")
        .value_or(-1);
  };
  EXPECT_EQ(value("num_requests_running"), 0);
  EXPECT_EQ(value("num_requests_waiting"), 0);
  EXPECT_EQ(value("kv_cache_usage_perc"), 0);
  EXPECT_EQ(value("prompt_tokens_total"), 0);
  EXPECT_EQ(value("generation_tokens_total"), 0);
  EXPECT_EQ(value("prefix_cache_queries_total"), 0);
  EXPECT_EQ(value("prefix_cache_hits_total"), 0);
  EXPECT_EQ(value("time_to_first_token_seconds_sum"), 0.5);
  EXPECT_EQ(value("inter_token_latency_seconds_count"), 0);
  EXPECT_EQ(value("request_success_total", ",finished_reason=\"stop\""), 2);
  EXPECT_EQ(value("request_success_total", ",finished_reason=\"length\""), 1);
  EXPECT_EQ(value("request_success_total", ",finished_reason=\"abort\""), 0);
  EXPECT_THAT(page, Not(HasSubstr("vllm:lora_requests_info")));
  metrics.AttachEngine(nullptr);
}

TEST(MetricsVllmTest, AdaptersAreNamed) {
  const auto families = VllmFamilies({}, {"tiny", {"a.gguf x 0.5", "b.gguf x 1"}, 1700000000});
  ASSERT_EQ(families.size(), 1u);
  EXPECT_EQ(families[0].name, "vllm:lora_requests_info");
  EXPECT_EQ(families[0].metric[0].label[0].value, "2");
  EXPECT_EQ(families[0].metric[0].label[1].value, "a.gguf,b.gguf");
  EXPECT_EQ(families[0].metric[0].gauge.value, 1700000000);
}

}  // namespace tidegate::metrics_vllm_test
