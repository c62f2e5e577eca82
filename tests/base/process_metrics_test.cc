#include "base/process_metrics.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <map>

#include "base/unique_fd.h"
#include "tests/support/test_support.h"

namespace tidegate::process_metrics_test {

std::map<std::string, double> Values(const ProcessMetrics& metrics) {
  std::map<std::string, double> values;
  for (const prometheus::MetricFamily& family : metrics.Collect()) {
    const prometheus::ClientMetric& metric = family.metric.at(0);
    values[family.name] =
        family.type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value;
  }
  return values;
}

TEST(ProcessMetricsTest, FieldsOfProcAreTakenInTheirUnits) {
  TempDir proc;
  std::filesystem::create_directories(proc.File("self/fd"));
  for (const char* fd : {"0", "1", "17"}) WriteFileOrDie(proc.File("self/fd/") + fd, "");
  // A program name with a space and brackets must not shift the fields behind it.
  WriteFileOrDie(proc.File("self/stat"),
                 "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 9 0 250 50 0 0 20 0 3 0 1000 99999 12 "
                 "18446744073709551615 1 1 0 0 0\n");
  WriteFileOrDie(proc.File("stat"), "cpu  1 2 3 4\nintr 5\nbtime 1700000000\nprocesses 9\n");
  WriteFileOrDie(proc.File("self/limits"),
                 "Limit                     Soft Limit           Hard Limit           Units\n"
                 "Max processes             77                   78                   processes\n"
                 "Max open files            1024                 524288               files\n");

  const auto values = Values(ProcessMetrics(proc.path()));
  const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  EXPECT_EQ(values.at("process_cpu_seconds_total"), 300 / ticks);
  EXPECT_EQ(values.at("process_resident_memory_bytes"), 12.0 * sysconf(_SC_PAGESIZE));
  EXPECT_EQ(values.at("process_open_fds"), 3);
  EXPECT_EQ(values.at("process_max_fds"), 1024);
  EXPECT_EQ(values.at("process_start_time_seconds"), 1700000000 + 1000 / ticks);
  EXPECT_EQ(values.at("process_major_page_faults_total"), 9);
}

TEST(ProcessMetricsTest, WhatCannotBeReadIsLeftOut) {
  TempDir empty;
  EXPECT_TRUE(ProcessMetrics(empty.path()).Collect().empty());
  std::filesystem::create_directories(empty.File("self"));
  WriteFileOrDie(empty.File("self/stat"), "7 (short) S 1 2");
  EXPECT_TRUE(ProcessMetrics(empty.path()).Collect().empty());
}

TEST(ProcessMetricsTest, ThisProcessIsPlausible) {
  const ProcessMetrics metrics;
  const auto before = Values(metrics);
  ASSERT_EQ(before.size(), 6u);
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  EXPECT_LT(before.at("process_start_time_seconds"), now + 2);
  EXPECT_GT(before.at("process_start_time_seconds"), now - 3600);
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_EQ(before.at("process_max_fds"), static_cast<double>(limit.rlim_cur));

  const auto fd = UniqueFd::Open("/dev/null", O_RDONLY);
  ASSERT_TRUE(fd.ok());
  EXPECT_EQ(Values(metrics).at("process_open_fds"), before.at("process_open_fds") + 1);
}

}  // namespace tidegate::process_metrics_test
