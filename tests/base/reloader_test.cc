#include "base/reloader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "base/metrics_reload.h"
#include "base/mutex.h"
#include "prometheus/metric_family.h"
#include "tests/support/test_support.h"

namespace tidegate::reloader_test {

using ::testing::HasSubstr;

constexpr std::chrono::seconds kLimit(60);

TEST(Reloader, EveryItemIsReadWhateverTheOthersSay) {
  HangUpSignal signal;
  Reloader reloader(signal);
  bool bad = true;
  int reads = 0;
  reloader.Add("keys", [&] {
    return bad ? absl::InvalidArgumentError("keys.txt, line 3: no hash") : absl::OkStatus();
  });
  reloader.Add("limits", [&] {
    ++reads;
    return absl::OkStatus();
  });
  ::testing::internal::CaptureStderr();
  EXPECT_FALSE(reloader.RunOnce());
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("reload: keys kept as before: keys.txt, line 3: no hash\n"));
  EXPECT_THAT(log, HasSubstr("reload: limits reloaded\n"));
  EXPECT_EQ(reads, 1);
  EXPECT_EQ(reloader.stats()->last_success_s, 0);
  bad = false;
  EXPECT_TRUE(reloader.RunOnce());
  EXPECT_GT(reloader.stats()->last_success_s, 1e9);
  EXPECT_EQ(reloader.stats()->succeeded, 1u);
  EXPECT_EQ(reloader.stats()->failed, 1u);
}

// One that came before Start() is not lost.
TEST(Reloader, ASignalBeginsARound) {
  std::atomic<int> reads = 0;
  HangUpSignal signal;
  {
    Reloader reloader(signal);
    reloader.Add("limits", [&] {
      ++reads;
      return absl::OkStatus();
    });
    raise(SIGHUP);
    reloader.Start();
    ASSERT_TRUE(WaitUntil([&] { return reads == 1; }, kLimit));
    raise(SIGHUP);
    EXPECT_TRUE(WaitUntil([&] { return reads == 2; }, kLimit));
  }
  EXPECT_EQ(reads, 2);
}

TEST(ReloadMetrics, ShowRoundsByResult) {
  auto stats = std::make_shared<ReloadStats>();
  stats->failed = 3;
  stats->last_success_s = 7;
  double failed = 0, last = 0;
  for (const prometheus::MetricFamily& family : ReloadMetrics(stats).Collect()) {
    for (const prometheus::ClientMetric& metric : family.metric) {
      if (!metric.label.empty() && metric.label[0].value == "failed") failed = metric.counter.value;
      if (metric.label.empty()) last = metric.gauge.value;
    }
  }
  EXPECT_EQ(failed, 3);
  EXPECT_EQ(last, 7);
}

}  // namespace tidegate::reloader_test
