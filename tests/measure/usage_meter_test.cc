#include "measure/usage_meter.h"

#include <gtest/gtest.h>

namespace tidegate::usage_meter_test {

TEST(PerToken, DividesDifferences) {
  const Usage begin = {.seconds = 10, .cpu_seconds = 3, .disk_bytes = 100, .peak_rss_bytes = 0};
  const Usage end = {.seconds = 12, .cpu_seconds = 7, .disk_bytes = 900, .peak_rss_bytes = 0};
  const TokenUsage token = PerToken(begin, end, 4);
  EXPECT_DOUBLE_EQ(token.tokens_per_second, 2);
  EXPECT_DOUBLE_EQ(token.cpu_seconds, 1);
  EXPECT_DOUBLE_EQ(token.disk_bytes, 200);
}

TEST(UsageNow, OnlyGrows) {
  const Usage first = UsageNow();
  const Usage second = UsageNow();
  EXPECT_GT(first.peak_rss_bytes, 0u);
  EXPECT_GE(second.seconds, first.seconds);
  EXPECT_GE(second.cpu_seconds, first.cpu_seconds);
  EXPECT_GE(second.disk_bytes, first.disk_bytes);
  EXPECT_GE(second.peak_rss_bytes, first.peak_rss_bytes);
}

}  // namespace tidegate::usage_meter_test
