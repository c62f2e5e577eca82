#include "cli/top_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/listen_address.h"
#include "base/metrics_server.h"
#include "cli/metrics_page.h"
#include "tests/support/test_support.h"

namespace tidegate::top_view_test {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::chrono::seconds kLimit(60);

// `scale` requests of ten tokens have run.
ReadMetrics Engine(int scale, int start = 1) {
  return ReadMetrics(absl::StrCat(
      "# HELP x y\nprocess_start_time_seconds ", start,
      "\ntidegate_model_info{model=\"de\\\"mo\",architecture=\"llama\"} 1\n"
      "tidegate_state{model=\"m\",state=\"loading\"} "
      "0\ntidegate_state{model=\"m\",state=\"ready\"} 1\n"
      "tidegate_generation_tokens_total{model=\"m\"} ",
      10 * scale, "\ntidegate_requests_running{model=\"m\"} 3\n",
      "tidegate_time_to_first_token_seconds_bucket{model=\"m\",le=\"0.1\"} ", scale,
      "\ntidegate_time_to_first_token_seconds_bucket{model=\"m\",le=\"0.2\"} ", 3 * scale,
      "\ntidegate_time_to_first_token_seconds_bucket{model=\"m\",le=\"+Inf\"} ", 3 * scale,
      "\ntidegate_flash_bytes_per_token_sum{model=\"m\"} ", 2048 * scale,
      "\ntidegate_flash_bytes_per_token_count{model=\"m\"} ", scale,
      "\ntidegate_flash_stall_seconds_total{model=\"m\",phase=\"decode\"} ", scale,
      "\ntidegate_flash_stall_seconds_total{model=\"m\",phase=\"prefill\"} ", scale,
      "\ntidegate_request_decode_seconds_sum{model=\"m\"} ", 8 * scale,
      "\ntidegate_kv_cache_tokens{model=\"m\",state=\"used\"} 64\n"
      "tidegate_kv_cache_tokens{model=\"m\",state=\"capacity\"} 256\n"));
}

ReadMetrics Store(int scale) {
  return ReadMetrics(
      absl::StrCat("process_start_time_seconds "
                   "1\ntidegate_neuron_cache_hits_total{lease=\"select\",model=\"m\"} ",
                   9 * scale * scale,
                   "\ntidegate_neuron_cache_misses_total{lease=\"select\",model=\"m\"} ", scale,
                   "\ntidegate_neuron_cache_hits_total{lease=\"stream\",model=\"m\"} 1000\n"
                   "tidegate_flash_read_bytes_total{model=\"m\",purpose=\"cache\"} ",
                   5000000 * scale,
                   "\ntidegate_memory_budget_bytes{model=\"m\",part=\"static\"} 1048576\n"
                   "tidegate_memory_budget_bytes{model=\"m\",part=\"slots\"} 3145728\n"
                   "tidegate_neuron_cache_bytes{model=\"m\",state=\"used\"} 1572864\n"
                   "tidegate_neuron_cache_bytes{model=\"m\",state=\"capacity\"} 3145728\n"));
}

TEST(TopView, ShowsRatesAndTotals) {
  const TopReading before = {.time_s = 10, .engine = Engine(1), .store = Store(1)};
  const TopReading now = {.time_s = 20, .engine = Engine(3), .store = Store(3)};
  const std::string table = TopTable(&before, now, 80);
  for (const char* row :
       {"^tidegate top   de\"mo   ready\n", "\ntokens/s +2 +30\n", "\nstreams running +3\n",
        "\nfirst token p50 +125.* ms +125.* ms\n", "\nflash per token +2.0 KiB +2.0 KiB\n",
        "\nwaits for flash +40.0 % +25.0 %\n", "\nKV cache +25.0 % +64 of 256\n",
        "\ncache hit rate +97.3 % +96.4 %\n", "\nflash read +1.0 MB/s +14.31 MiB\n",
        "\nmemory budget +4.00 MiB\n", "\n  cache in use +50.0 % +3.00 MiB\n"}) {
    EXPECT_THAT(table, ContainsRegex(row));
  }
}

TEST(TopView, WithoutEarlierReadingsThereAreNoRates) {
  const TopReading now = {.time_s = 20, .engine = Engine(3), .store_problem = "no answer"};
  EXPECT_THAT(TopTable(nullptr, now, 80), ContainsRegex("\ntokens/s +- +30\n"));
  EXPECT_THAT(TopTable(nullptr, now, 80), HasSubstr("\nstore: no answer\n"));
  const TopReading before_restart = {.time_s = 10, .engine = Engine(9, /*start=*/0)};
  EXPECT_THAT(TopTable(&before_restart, now, 80), ContainsRegex("\ntokens/s +- +30\n"));
  // A page that holds nothing of ours.
  const TopReading other = {.engine = ReadMetrics("x 1\n"), .store = ReadMetrics("")};
  EXPECT_THAT(TopTable(&now, other, 80), ContainsRegex("\nfirst token p95 +- +-\n"));
}

TEST(TopView, LinesFitIntoTheTerminal) {
  const TopReading now = {.time_s = 20, .engine = Engine(3), .store = Store(3)};
  const std::string table = TopTable(nullptr, now, 30);
  for (const absl::string_view line : absl::StrSplit(table, '\n')) {
    EXPECT_LE(line.size(), 30u);
  }
}

TEST(MetricsPage, StepsOverWhatIsNoSeries) {
  const ReadMetrics page(
      "a{l=\"x\\\\\\\"y\"} 2 1700000000\na{l=\"z\"} 3\nb\nc{l=\"\nd{l=\"x\" 1\ne x\nf{} 4\n{} 5\ng "
      "NaN");
  EXPECT_EQ(page.Sum("a"), 5);
  EXPECT_EQ(page.Sum("a", {{"l", "x\\\"y"}}), 2);
  EXPECT_EQ(page.LabelOf("a", "l"), "x\\\"y");
  EXPECT_EQ(page.Sum("f"), 4);
  for (const char* name : {"b", "c", "d", "e"}) EXPECT_FALSE(page.Has(name)) << name;
}

TEST(MetricsPage, QuantilesAreOfWhatCameBetween) {
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<std::pair<double, double>> before = {{1, 100}, {2, 100}, {inf, 100}};
  const std::vector<std::pair<double, double>> after = {{1, 100}, {2, 110}, {inf, 120}};
  EXPECT_DOUBLE_EQ(HistogramQuantile(before, after, 0.25), 1.5);
  EXPECT_DOUBLE_EQ(HistogramQuantile(before, after, 0.95), 2);
  EXPECT_LT(HistogramQuantile({}, after, 0.5), 1);
  EXPECT_EQ(HistogramQuantile(after, after, 0.5), -1);
  EXPECT_EQ(HistogramQuantile({}, {}, 0.5), -1);
}

TEST(MetricsPage, IsReadFromAServer) {
  TempDir dir;
  for (const std::string& listen : {std::string("127.0.0.1:0"), "unix:" + dir.File("m.sock")}) {
    const auto server = MetricsServer::Create(listen);
    ASSERT_TRUE(server.ok()) << server.status();
    const auto page = FetchMetrics((*server)->address(), kLimit);
    ASSERT_TRUE(page.ok()) << page.status();
    EXPECT_EQ(ReadMetrics(*page).Sum("tidegate_build_info"), 1);
  }
}

TEST(MetricsPage, SaysWhoDoesNotAnswer) {
  const auto none = FetchMetrics("unix:/nonexistent/m.sock", kLimit);
  EXPECT_THAT(std::string(none.status().message()),
              HasSubstr("no metrics from unix:/nonexistent/m.sock: No such file"));
  EXPECT_EQ(FetchMetrics("nowhere", kLimit).status().code(), absl::StatusCode::kInvalidArgument);
  // Who listens and says nothing.
  const auto silent = Listen(*ParseListenAddress("127.0.0.1:0"), 4);
  ASSERT_TRUE(silent.ok());
  const auto late = FetchMetrics(silent->address.ToString(), std::chrono::milliseconds(20));
  EXPECT_THAT(std::string(late.status().message()), HasSubstr("no answer in time"));
}

}  // namespace tidegate::top_view_test
