#include "cli/load_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_split.h"

namespace tidegate::load_report_test {

using testing::HasSubstr;
using testing::Not;

// `streams` streams, each with four tokens at 1, 2, 3 and 4 s, over at 5 s.
MeasuredLoad Measured(uint32_t streams, std::optional<double> rate = std::nullopt) {
  LoadMeter meter({});
  std::vector<LoadMeter::Stream> open;
  for (uint32_t i = 0; i < streams; ++i) open.push_back(meter.Begin(0, 0, 10));
  for (const double now : {1, 2, 3, 4}) {
    for (LoadMeter::Stream& stream : open) meter.Tokens(stream, now, 1);
  }
  v1::Finished finished;
  finished.set_finish_reason(v1::FINISH_REASON_MAX_TOKENS);
  finished.mutable_usage()->set_generated_tokens(4);
  finished.mutable_flash()->set_decode_bytes(4096);
  finished.mutable_flash()->set_hit_units(3);
  finished.mutable_flash()->set_miss_units(1);
  finished.mutable_flash()->set_stall_seconds(1);
  finished.mutable_timings()->set_decode_seconds(4);
  finished.mutable_timings()->set_queue_seconds(0.5);
  for (LoadMeter::Stream& stream : open) meter.Complete(stream, 5, finished);
  return {.streams = streams, .rate = rate, .cpu_seconds = 1, .result = meter.Finish(5)};
}

LoadSubject Subject() {
  return {.model = "tiny <1> (llama, q8)",
          .server = "127.0.0.1:1",
          .workload = "Prompts of 10 tokens, outputs of at most 4 tokens.",
          .command = "tidegate load --concurrency 2",
          .seed = 7};
}

TEST(LoadReportTest, OneRunAsText) {
  const std::string text = LoadText(Subject(), Measured(2));
  EXPECT_THAT(text, HasSubstr("2 streams, 5.0 s. Prompts of 10 tokens"));
  EXPECT_THAT(text, HasSubstr("2 begun, 2 completed, 0 refused, 0 failed; at most 2 open at once"));
  EXPECT_THAT(text, HasSubstr("0.4 requests/s, 1.6 output tokens/s, 5.6 tokens/s with prompts"));
  EXPECT_THAT(text, testing::ContainsRegex("TTFT +1000.0 +1000.0"));
  EXPECT_THAT(text, testing::ContainsRegex("E2EL +5000.0 +5000.0"));
  EXPECT_THAT(text, testing::ContainsRegex("server queue +500.0"));
  EXPECT_THAT(text, HasSubstr("1.0 KiB per generated token"));
  EXPECT_THAT(text, HasSubstr("hit rate 75.0 %, 25.0 % of decoding waited for it"));
  EXPECT_THAT(text, HasSubstr("max tokens 2"));
  EXPECT_THAT(text, HasSubstr("0.20 cores"));
  EXPECT_THAT(text, Not(HasSubstr("goodput")));
  LoadSubject with_goals = Subject();
  with_goals.goals = true;
  EXPECT_THAT(LoadText(with_goals, Measured(2)), HasSubstr("(goodput 0.4)"));
}

TEST(LoadReportTest, ErrorsAreShownWithAnExample) {
  LoadMeter meter({});
  for (int i = 0; i < 2; ++i) {
    meter.Fail(meter.Begin(0, 0, 1), 1, {.code = "DATA_LOSS", .reason = "WEIGHTS_DAMAGED"},
               "DATA_LOSS: a block\n  reason WEIGHTS_DAMAGED");
  }
  const MeasuredLoad load = {.result = meter.Finish(1)};
  EXPECT_THAT(LoadText(Subject(), load),
              HasSubstr("2 times DATA_LOSS WEIGHTS_DAMAGED, such as\n  DATA_LOSS: a block\n"));
  const auto json = nlohmann::json::parse(LoadJson(Subject(), load));
  EXPECT_EQ(json["failed"], 2);
  EXPECT_EQ(json["errors"][0]["code"], "DATA_LOSS");
  EXPECT_EQ(json["errors"][0]["reason"], "WEIGHTS_DAMAGED");
  EXPECT_EQ(json["errors"][0]["count"], 2);
}

TEST(LoadReportTest, JsonHasTheNamesThatScriptsKnow) {
  const auto json = nlohmann::json::parse(LoadJson(Subject(), Measured(2)));
  EXPECT_EQ(json["request_rate"], "inf");
  EXPECT_EQ(json["max_concurrency"], 2);
  EXPECT_EQ(json["duration"], 5);
  EXPECT_EQ(json["completed"], 2);
  EXPECT_EQ(json["total_input_tokens"], 20);
  EXPECT_EQ(json["total_output_tokens"], 8);
  EXPECT_EQ(json["request_throughput"], 0.4);
  EXPECT_EQ(json["output_throughput"], 1.6);
  EXPECT_EQ(json["total_token_throughput"], 5.6);
  EXPECT_EQ(json["median_ttft_ms"], 1000);
  EXPECT_EQ(json["p99_itl_ms"], 1000);
  EXPECT_EQ(json["mean_tpot_ms"], 1000);
  EXPECT_EQ(json["p99_e2el_ms"], 5000);
  EXPECT_EQ(json["server"]["hit_rate"], 0.75);
  EXPECT_EQ(json["server"]["flash_bytes_per_token"], 1024);
  EXPECT_EQ(json["finish_reasons"]["FINISH_REASON_MAX_TOKENS"], 2);
  EXPECT_EQ(nlohmann::json::parse(LoadJson(Subject(), Measured(3, 2.5)))["request_rate"], 2.5);
}

TEST(LoadReportTest, TheTableComparesRuns) {
  const std::vector<MeasuredLoad> loads = {Measured(1), Measured(4)};
  const std::string table = LoadTable(Subject(), loads);
  EXPECT_THAT(table, testing::ContainsRegex("\n +1 stream +1 +0 +0 +0.2 +0.8 +1.00 "));
  EXPECT_THAT(table, testing::ContainsRegex("\n +4 streams +4 +0 +0 +0.8 +3.2 +4.00 "));
}

TEST(LoadReportTest, ThePageHasItsPlotsAndAnEvenTable) {
  const std::vector<MeasuredLoad> one = {Measured(2)}, several = {Measured(1), Measured(4)};
  const auto names = [](const ReportPage& page) {
    std::vector<std::string> list;
    for (const auto& [name, plot] : page.plots) list.push_back(name);
    return list;
  };
  const ReportPage page = LoadPage(Subject(), several);
  EXPECT_THAT(names(LoadPage(Subject(), one)),
              testing::ElementsAre("ttft", "itl", "tokens", "streams"));
  EXPECT_THAT(names(page),
              testing::ElementsAre("speed", "latency", "ttft", "itl", "tokens", "streams"));
  ASSERT_EQ(page.rows.size(), 2u);
  for (const auto& row : page.rows) EXPECT_EQ(row.size(), page.columns.size());
  for (const auto& [name, plot] : page.plots) {
    for (const PlotSeries& series : plot.series) EXPECT_FALSE(series.points.empty()) << name;
  }
  EXPECT_THAT(page.plots[0].second.series[0].points,
              testing::ElementsAre(testing::Pair(1, 0.8), testing::Pair(4, 3.2)));
  EXPECT_THAT(page.about, HasSubstr("Seed 7"));
}

TEST(LoadReportTest, CsvRowsHaveTheNamedFields) {
  const std::vector<MeasuredLoad> loads = {Measured(1), Measured(4)};
  const std::string csv = LoadPage(Subject(), loads).csv;
  const std::vector<std::string> lines = absl::StrSplit(csv, '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 3u);
  const auto fields = [](const std::string& line) {
    return std::vector<std::string>(absl::StrSplit(line, ','));
  };
  const std::vector<std::string> header = fields(lines[0]);
  const auto at = std::find(header.begin(), header.end(), "output_throughput") - header.begin();
  EXPECT_EQ(fields(lines[1]).at(static_cast<size_t>(at)), "0.8");
  EXPECT_EQ(fields(lines[2]).at(static_cast<size_t>(at)), "3.2");
  EXPECT_EQ(fields(lines[2]).size(), header.size());
}

TEST(LoadReportTest, NothingMeasuredIsNoNumberThatIsNone) {
  const MeasuredLoad nothing;
  EXPECT_THAT(LoadText(Subject(), nothing), Not(HasSubstr("nan")));
  EXPECT_THAT(LoadJson(Subject(), nothing), Not(HasSubstr("null")));
  EXPECT_THAT(LoadPage(Subject(), {&nothing, 1}).csv, Not(HasSubstr("nan")));
}

}  // namespace tidegate::load_report_test
