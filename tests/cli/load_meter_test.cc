#include "cli/load_meter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "cli/interval_sums.h"
#include "cli/latency_histogram.h"

namespace tidegate::load_meter_test {

using testing::DoubleNear;
using testing::ElementsAre;
using testing::Pair;

TEST(LatencyHistogramTest, PercentilesAreThoseOfTheSortedValues) {
  LatencyHistogram histogram;
  std::vector<double> values;
  double sum = 0;
  for (int i = 0; i < 1000; ++i) {
    const double value = 1e-4 * std::exp((i * 617 % 1000) * 0.012);  // 0.1 ms to 16 s
    values.push_back(value);
    sum += value;
    histogram.Add(value);
  }
  std::sort(values.begin(), values.end());
  for (const double share : {0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const double exact = values[static_cast<size_t>(std::ceil(share * 1000)) - 1];
    EXPECT_NEAR(histogram.Percentile(share), exact, 0.0051 * exact) << share;
  }
  EXPECT_EQ(histogram.count(), 1000u);
  EXPECT_NEAR(histogram.mean(), sum / 1000, 1e-9);
  EXPECT_EQ(histogram.min(), values.front());
  EXPECT_EQ(histogram.max(), values.back());
}

TEST(LatencyHistogramTest, ExtremesAndNothing) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.Percentile(0.5), 0);
  EXPECT_EQ(histogram.mean(), 0);
  EXPECT_TRUE(histogram.Cumulative().empty());
  histogram.Add(-1);
  EXPECT_EQ(histogram.Percentile(0.99), 0);
  histogram.Add(1e9);
  EXPECT_EQ(histogram.max(), 1e9);
  EXPECT_LT(histogram.Percentile(0), 2e-6) << "the first bucket";
  EXPECT_GE(histogram.Percentile(1), 86400);
}

TEST(LatencyHistogramTest, TheCurveRisesToOneInFewPoints) {
  LatencyHistogram histogram;
  for (int i = 1; i <= 100000; ++i) histogram.Add(1e-5 * i * i);
  const auto curve = histogram.Cumulative();
  EXPECT_LT(curve.size(), 700u);
  EXPECT_GT(curve.size(), 100u);
  EXPECT_THAT(curve.front(), Pair(1e-5, 0.0));
  EXPECT_THAT(curve.back(), Pair(histogram.max(), 1.0));
  EXPECT_TRUE(std::is_sorted(curve.begin(), curve.end()));
  // The latency grows with the square of the rank.
  for (const auto& [seconds, share] : curve) {
    if (share < 0.1) continue;
    EXPECT_NEAR(seconds, 1e-5 * std::pow(1e5 * share, 2), 0.03 * seconds);
  }
}

TEST(IntervalSumsTest, NothingIsLostWhenIntervalsJoin) {
  IntervalSums tokens;
  for (int second = 0; second < 1000; ++second) tokens.Add(second + 0.5, 3);
  const auto means = tokens.Means(1000);
  EXPECT_LE(means.size(), 80u);
  EXPECT_GE(means.size(), 30u);
  for (const auto& [at, mean] : means) EXPECT_NEAR(mean, 3, 0.5) << at;
  EXPECT_LT(means.back().first, 1000);
}

TEST(IntervalSumsTest, ValuesAreMeansOverTime) {
  IntervalSums streams;
  streams.AddSpan(0, 0.125, 2);
  streams.AddSpan(0.125, 0.625, 4);
  streams.AddSpan(0.625, 0.75, 0);
  EXPECT_THAT(streams.Means(0.75),
              ElementsAre(Pair(0.125, DoubleNear(3, 1e-9)), Pair(0.375, DoubleNear(4, 1e-9)),
                          Pair(0.625, DoubleNear(2, 1e-9))));
  IntervalSums later;  // far behind the first intervals
  later.AddSpan(0, 500, 7);
  for (const auto& [at, mean] : later.Means(500)) EXPECT_NEAR(mean, 7, 1e-9) << at;
}

TEST(IntervalSumsTest, AShortRestIsLeftOut) {
  IntervalSums tokens;
  tokens.Add(0.125, 1);
  tokens.Add(0.251, 1);  // would be a rate of 1,000 over a millisecond
  EXPECT_THAT(tokens.Means(0.251), ElementsAre(Pair(0.125, DoubleNear(4, 1e-9))));
}

v1::Finished Accounts(uint32_t tokens) {
  v1::Finished finished;
  finished.set_finish_reason(v1::FINISH_REASON_MAX_TOKENS);
  finished.mutable_usage()->set_generated_tokens(tokens);
  finished.mutable_timings()->set_queue_seconds(0.25);
  finished.mutable_timings()->set_decode_seconds(2);
  finished.mutable_flash()->set_decode_bytes(1000 * tokens);
  finished.mutable_flash()->set_prefill_bytes(500);
  finished.mutable_flash()->set_hit_units(30);
  finished.mutable_flash()->set_miss_units(10);
  finished.mutable_flash()->set_stall_seconds(0.5);
  return finished;
}

TEST(LoadMeterTest, OneStream) {
  LoadMeter meter({});
  auto stream = meter.Begin(/*due=*/1, /*now=*/1.5, /*prompt_tokens=*/10);
  meter.Tokens(stream, 2, 0);  // an event without tokens is none
  meter.Tokens(stream, 3, 1);
  meter.Tokens(stream, 4, 2);
  meter.Tokens(stream, 6, 1);
  meter.Complete(stream, 7, Accounts(4));
  const LoadResult result = meter.Finish(7);
  EXPECT_EQ(result.begun, 1u);
  EXPECT_EQ(result.completed, 1u);
  EXPECT_EQ(result.prompt_tokens, 10u);
  EXPECT_EQ(result.output_tokens, 4u);
  EXPECT_EQ(result.token_events, 3u);
  EXPECT_EQ(result.latest_start, 0.5);
  EXPECT_EQ(result.ttft.max(), 2) << "from when it was due";
  EXPECT_EQ(result.itl.count(), 2u);
  EXPECT_EQ(result.itl.min(), 1);
  EXPECT_EQ(result.itl.max(), 2);
  EXPECT_EQ(result.tpot.max(), 1) << "3 s for the 3 tokens after the first";
  EXPECT_EQ(result.e2el.max(), 6);
  EXPECT_EQ(result.queue.max(), 0.25);
  EXPECT_EQ(result.server.flash_bytes_per_token(), 1000);
  EXPECT_EQ(result.server.hit_rate(), 0.75);
  EXPECT_EQ(result.finish_reasons.at(v1::FINISH_REASON_MAX_TOKENS), 1u);
}

TEST(LoadMeterTest, TokensThatNoEventBroughtCountAtTheEnd) {
  LoadMeter meter({});
  auto some = meter.Begin(0, 0, 5);
  meter.Tokens(some, 1, 2);
  meter.Complete(some, 2, Accounts(3));  // the end token
  auto none = meter.Begin(2, 2, 5);
  meter.Complete(none, 4, Accounts(1));
  const LoadResult result = meter.Finish(4);
  EXPECT_EQ(result.output_tokens, 4u);
  EXPECT_EQ(result.ttft.count(), 2u);
  EXPECT_EQ(result.ttft.max(), 2);
  EXPECT_EQ(result.itl.count(), 0u);
  EXPECT_EQ(result.prompt_tokens, 10u);
}

TEST(LoadMeterTest, EveryBegunRequestEndsInOneWay) {
  LoadMeter meter({});
  auto completed = meter.Begin(0, 0, 1), refused = meter.Begin(0, 0, 1),
       failed = meter.Begin(0, 0, 1), cut = meter.Begin(0, 0, 1), waiting = meter.Begin(0, 0, 1);
  meter.Tokens(completed, 1, 1);
  meter.Tokens(cut, 1, 1);
  meter.Complete(completed, 2, Accounts(1));
  meter.Refuse(refused, 2);
  meter.Fail(failed, 2, {.code = "INTERNAL"}, "INTERNAL: broken");
  meter.CutOff(cut, 3);
  meter.CutOff(waiting, 3);
  const LoadResult result = meter.Finish(3);
  EXPECT_EQ(result.begun, result.completed + result.refused + result.failed + result.cut_off);
  EXPECT_EQ(result.cut_off, 2u);
  EXPECT_EQ(result.cut_off_waiting, 1u);
  EXPECT_EQ(result.most_streams, 5u);
  EXPECT_EQ(result.e2el.count(), 1u);
  EXPECT_EQ(result.ttft.count(), 2u) << "what was seen of a stream that is cut off counts";
  EXPECT_EQ(result.seconds, 3);
}

TEST(LoadMeterTest, StreamsOverTimeAreWaitingThenRunning) {
  LoadMeter meter({});
  auto stream = meter.Begin(0, 0, 1);
  meter.Tokens(stream, 0.25, 1);
  meter.Complete(stream, 0.5, Accounts(1));
  const LoadResult result = meter.Finish(0.75);
  const auto near = [](double value) { return Pair(testing::_, DoubleNear(value, 1e-9)); };
  EXPECT_THAT(result.waiting.Means(0.75), ElementsAre(near(1), near(0), near(0)));
  EXPECT_THAT(result.receiving.Means(0.75), ElementsAre(near(0), near(1), near(0)));
  EXPECT_THAT(result.tokens.Means(0.75), ElementsAre(near(0), near(4), near(0)));
}

TEST(LoadMeterTest, ErrorsAreCountedByKindTheMostFrequentFirst) {
  LoadMeter meter({});
  const auto fail = [&](const ErrorFacts& facts, const std::string& text) {
    const auto stream = meter.Begin(0, 0, 1);
    meter.Fail(stream, 0, facts, text);
  };
  fail({.code = "INTERNAL"}, "first");
  for (int i = 0; i < 3; ++i) {
    fail({.code = "UNAVAILABLE", .reason = "DRAINING"}, absl::StrCat("stop ", i));
  }
  fail({.code = "UNAVAILABLE", .reason = "WEIGHT_STORE_UNAVAILABLE"}, "away");
  for (int i = 0; i < 1000; ++i) fail({.code = "UNKNOWN", .reason = absl::StrCat(i)}, "made up");
  const LoadResult result = meter.Finish(1);
  EXPECT_EQ(result.failed, 1005u);
  ASSERT_LE(result.errors.size(), 100u) << "a server may make up reasons for ever";
  EXPECT_EQ(result.errors[0].reason, "DRAINING");
  EXPECT_EQ(result.errors[0].count, 3u);
  EXPECT_EQ(result.errors[0].example, "stop 0");
  EXPECT_EQ(result.errors[1].code, "INTERNAL");
}

TEST(LoadMeterTest, GoodRequestsMeetEveryGoal) {
  const auto good = [](LatencyGoals goals) {
    LoadMeter meter(goals);
    auto stream = meter.Begin(0, 0, 1);
    meter.Tokens(stream, 1, 1);
    meter.Tokens(stream, 3, 1);
    meter.Complete(stream, 4, Accounts(2));
    return meter.Finish(4).good;
  };
  EXPECT_EQ(good({}), 1u);
  EXPECT_EQ(good({.ttft = 1, .tpot = 2, .e2el = 4}), 1u);
  EXPECT_EQ(good({.ttft = 0.9}), 0u);
  EXPECT_EQ(good({.tpot = 1.9}), 0u);
  EXPECT_EQ(good({.e2el = 3.9}), 0u);
}

}  // namespace tidegate::load_meter_test
