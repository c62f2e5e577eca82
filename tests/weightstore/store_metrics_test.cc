#include "weightstore/store_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "prometheus/text_serializer.h"
#include "tests/support/metrics_text.h"

namespace tidegate::store_metrics_test {

using ::testing::Contains;

class StoreMetricsTest : public testing::Test {
 protected:
  StoreMetricsTest() {
    info_.model_name = "demo";
    info_.architecture = "llama";
    info_.unit_encoding = "q8";
    info_.pack_uuid = "0123";
    info_.policy = "lfu";
    info_.flash.backend = "pread";
    info_.flash.queue_depth = 256;
  }
  std::string Page() const {
    const prometheus::TextSerializer serializer;
    const prometheus::Serializer& base = serializer;
    return base.Serialize(StoreMetrics(info_, stats_).Collect());
  }

  StoreInfo info_;
  StoreStats stats_;
};

TEST_F(StoreMetricsTest, CountersKeepTheirLabels) {
  stats_.hit_units[0] = 70;
  stats_.miss_units[0] = 30;
  stats_.hit_units[1] = 7;
  stats_.miss_units[1] = 3;
  stats_.flash_read_bytes[0] = 1000;
  stats_.flash_read_bytes[1] = 2000;
  stats_.flash_read_bytes[2] = 3000;
  stats_.flash_reads_ok = 5;
  stats_.flash_reads_failed = 6;
  stats_.flash_reads_corrupt = 7;
  stats_.leases_granted[1] = 8;
  stats_.attaches_refused = 9;

  const std::string page = Page();
  const auto value = [&](const std::string& series) { return SampleValue(page, series); };
  EXPECT_EQ(value(R"(tidegate_neuron_cache_hits_total{model="demo",lease="select"})"), 70);
  EXPECT_EQ(value(R"(tidegate_neuron_cache_misses_total{model="demo",lease="select"})"), 30);
  EXPECT_EQ(value(R"(tidegate_neuron_cache_hits_total{model="demo",lease="stream"})"), 7);
  EXPECT_EQ(value(R"(tidegate_neuron_cache_misses_total{model="demo",lease="stream"})"), 3);
  EXPECT_EQ(value(R"(tidegate_flash_read_bytes_total{model="demo",purpose="cache"})"), 1000);
  EXPECT_EQ(value(R"(tidegate_flash_read_bytes_total{model="demo",purpose="stream"})"), 2000);
  EXPECT_EQ(value(R"(tidegate_flash_read_bytes_total{model="demo",purpose="static"})"), 3000);
  EXPECT_EQ(value(R"(tidegate_flash_reads_total{model="demo",result="ok"})"), 5);
  EXPECT_EQ(value(R"(tidegate_flash_reads_total{model="demo",result="error"})"), 6);
  EXPECT_EQ(value(R"(tidegate_flash_reads_total{model="demo",result="checksum"})"), 7);
  EXPECT_EQ(value(R"(tidegate_leases_total{model="demo",lease="stream"})"), 8);
  EXPECT_EQ(value(R"(tidegate_engine_attaches_total{model="demo",result="refused"})"), 9);
}

TEST_F(StoreMetricsTest, EverySeriesExistsAtZero) {
  const std::string page = Page();
  for (const std::string series : {R"(tidegate_flash_corrupt_blocks_total{model="demo"})",
                                   R"(tidegate_flash_submissions_total{model="demo"})",
                                   R"(tidegate_flash_read_duration_seconds_count{model="demo"})",
                                   R"(tidegate_neuron_cache_evictions_total{model="demo"})",
                                   R"(tidegate_neuron_cache_insertions_total{model="demo"})",
                                   R"(tidegate_neuron_cache_bypasses_total{model="demo"})",
                                   R"(tidegate_neuron_cache_resident_ratio{model="demo"})",
                                   R"(tidegate_leases_dropped_total{model="demo"})",
                                   R"(tidegate_engines_attached{model="demo"})"}) {
    EXPECT_EQ(SampleValue(page, series), 0) << series;
  }
}

TEST_F(StoreMetricsTest, HistogramsAreCumulative) {
  stats_.read_seconds.Observe(10e-6);  // on the bound: counted below it
  stats_.read_seconds.Observe(15e-6);
  stats_.read_seconds.Observe(5);  // beyond the last bound
  stats_.read_bytes.Observe(65536);
  const std::string page = Page();
  const auto bucket = [&](const std::string& le) {
    return SampleValue(
        page, "tidegate_flash_read_duration_seconds_bucket{model=\"demo\",le=\"" + le + "\"}");
  };
  EXPECT_EQ(bucket("1e-05"), 1);
  EXPECT_EQ(bucket("2e-05"), 2);
  EXPECT_EQ(bucket("1"), 2);
  EXPECT_EQ(bucket("+Inf"), 3);
  EXPECT_EQ(SampleValue(page, R"(tidegate_flash_read_duration_seconds_count{model="demo"})"), 3);
  EXPECT_NEAR(*SampleValue(page, R"(tidegate_flash_read_duration_seconds_sum{model="demo"})"),
              5.000025, 1e-9);
  EXPECT_EQ(SampleValue(page, R"(tidegate_flash_read_size_bytes_bucket{model="demo",le="65536"})"),
            1);
  EXPECT_EQ(SampleValue(page, R"(tidegate_flash_read_size_bytes_bucket{model="demo",le="32768"})"),
            0);
}

TEST_F(StoreMetricsTest, ResidentRatioIsUsedOverModel) {
  stats_.used_bytes = 25;
  stats_.capacity_bytes = 50;
  stats_.pinned_bytes = 5;
  stats_.streamed_model_bytes = 100;
  const std::string page = Page();
  EXPECT_EQ(SampleValue(page, R"(tidegate_neuron_cache_resident_ratio{model="demo"})"), 0.25);
  EXPECT_EQ(SampleValue(page, R"(tidegate_neuron_cache_bytes{model="demo",state="capacity"})"), 50);
  EXPECT_EQ(SampleValue(page, R"(tidegate_neuron_cache_bytes{model="demo",state="pinned"})"), 5);
}

TEST_F(StoreMetricsTest, BudgetPartsAddUp) {
  info_.memory_budget_bytes = 1000;
  info_.static_bytes = 400;
  info_.staging_bytes = 100;
  info_.engine_reserve_bytes = 150;
  stats_.capacity_bytes = 300;
  const auto part = [&](const std::string& name) {
    return SampleValue(Page(), "tidegate_memory_budget_bytes{model=\"demo\",part=\"" + name + "\"}")
        .value();
  };
  EXPECT_EQ(part("other"), 50);
  EXPECT_EQ(
      part("static") + part("slots") + part("staging") + part("engine_reserve") + part("other"),
      1000);
  // Tests and eval size the cache by fraction, whatever the budget: never a negative part.
  info_.memory_budget_bytes = 0;
  EXPECT_EQ(part("other"), 0);
}

std::string BackendInfo(const std::string& backend, const std::string& yes_no) {
  return "tidegate_flash_backend_info{model=\"demo\",backend=\"" + backend + "\",direct=\"" +
         yes_no + "\",fixed_buffers=\"" + yes_no + "\"}";
}

TEST_F(StoreMetricsTest, BackendInfoShowsAFallBack) {
  const std::string fallback = BackendInfo("pread", "false");
  EXPECT_EQ(SampleValue(Page(), fallback), 1);
  info_.flash.backend = "io_uring";
  info_.flash.direct = true;
  info_.flash.fixed_buffer_bytes = 4096;
  const std::string page = Page();
  EXPECT_EQ(SampleValue(page, fallback), std::nullopt);
  EXPECT_EQ(SampleValue(page, BackendInfo("io_uring", "true")), 1);
  EXPECT_EQ(SampleValue(page, R"(tidegate_flash_registered_buffer_bytes{model="demo"})"), 4096);
}

TEST_F(StoreMetricsTest, EveryFamilyHasHelpAndTheModelLabel) {
  for (const prometheus::MetricFamily& family : StoreMetrics(info_, stats_).Collect()) {
    EXPECT_FALSE(family.help.empty()) << family.name;
    ASSERT_FALSE(family.metric.empty()) << family.name;
    for (const prometheus::ClientMetric& metric : family.metric) {
      EXPECT_THAT(metric.label, Contains(prometheus::ClientMetric::Label{"model", "demo"}))
          << family.name;
    }
  }
}

}  // namespace tidegate::store_metrics_test
