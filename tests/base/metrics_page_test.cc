#include "base/metrics_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <limits>

namespace tidegate::metrics_page_test {

using ::testing::ElementsAre;
using Label = MetricsPage::Label;

TEST(MetricsPageTest, ConstantLabelsComeFirstInEverySample) {
  MetricsPage page(std::vector<Label>{{"model", "m"}});
  page.Counters("a_total", "A.", {{{{"kind", "x"}}, 1}, {{{"kind", "y"}}, 2}});
  page.Gauge("b", "B.", -3);
  const auto families = std::move(page).Take();
  ASSERT_EQ(families.size(), 2u);
  EXPECT_EQ(families[0].type, prometheus::MetricType::Counter);
  ASSERT_EQ(families[0].metric.size(), 2u);
  EXPECT_THAT(families[0].metric[1].label, ElementsAre(Label{"model", "m"}, Label{"kind", "y"}));
  EXPECT_EQ(families[0].metric[1].counter.value, 2);
  EXPECT_EQ(families[1].type, prometheus::MetricType::Gauge);
  EXPECT_THAT(families[1].metric.at(0).label, ElementsAre(Label{"model", "m"}));
  EXPECT_EQ(families[1].metric.at(0).gauge.value, -3);
}

TEST(MetricsPageTest, HistogramCountsBecomeCumulative) {
  MetricsPage page(std::vector<Label>{});
  page.Histogram("h", "H.", std::array{1.0, 2.0}, std::array<uint64_t, 3>{5, 0, 7}, 30.5);
  const auto families = std::move(page).Take();
  const auto& histogram = families.at(0).metric.at(0).histogram;
  ASSERT_EQ(histogram.bucket.size(), 3u);
  EXPECT_EQ(histogram.bucket[0].cumulative_count, 5u);
  EXPECT_EQ(histogram.bucket[1].cumulative_count, 5u);
  EXPECT_EQ(histogram.bucket[2].cumulative_count, 12u);
  EXPECT_EQ(histogram.bucket[2].upper_bound, std::numeric_limits<double>::infinity());
  EXPECT_EQ(histogram.sample_count, 12u);
  EXPECT_EQ(histogram.sample_sum, 30.5);
}

TEST(MetricsPageDeathTest, HistogramNeedsACountForEachBucket) {
  MetricsPage page(std::vector<Label>{});
  EXPECT_DEATH(page.Histogram("h", "H.", std::array{1.0}, std::array<uint64_t, 1>{5}, 0), "CHECK");
}

}  // namespace tidegate::metrics_page_test
