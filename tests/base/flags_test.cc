#include "base/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace tidegate {
namespace {

using testing::ElementsAre;

TEST(Flags, EnvironmentFillsWhatTheCommandLineLeavesOut) {
  CLI::App app;
  std::string a, b, c;
  app.add_option("--aa", a)->envname("TG_FLAGS_TEST_A");
  app.add_option("--bb", b)->envname("TG_FLAGS_TEST_B");
  app.add_option("--cc", c)->envname("TG_FLAGS_TEST_C");
  setenv("TG_FLAGS_TEST_A", "1", 1);
  setenv("TG_FLAGS_TEST_B", "2", 1);
  setenv("TG_FLAGS_TEST_C", "", 1);
  EXPECT_THAT(WithEnvironment(app, {"--bb=9"}), ElementsAre("--bb=9", "--aa=1"));
  EXPECT_THAT(WithEnvironment(app, {"--bbb", "x"}), ElementsAre("--bbb", "x", "--aa=1", "--bb=2"));
  unsetenv("TG_FLAGS_TEST_A");
  unsetenv("TG_FLAGS_TEST_B");
  unsetenv("TG_FLAGS_TEST_C");
}

TEST(Flags, ParsesQuantities) {
  CLI::App app;
  uint64_t bytes = 0;
  std::chrono::nanoseconds time{0};
  LogLevel level = LogLevel::kInfo;
  AddBytesFlag(app, "--bytes", bytes, "");
  AddDurationFlag(app, "--time", time, "");
  AddLogLevelFlag(app, level);
  const char* const good[] = {"x", "--bytes", "2KiB", "--time=3s", "--log-level", "error"};
  EXPECT_EQ(ParseFlags(app, 6, good), std::nullopt);
  EXPECT_EQ(bytes, 2048u);
  EXPECT_EQ(time, std::chrono::seconds(3));
  EXPECT_EQ(level, LogLevel::kError);
  const char* const bad[] = {"x", "--bytes", "much"};
  EXPECT_NE(ParseFlags(app, 3, bad).value_or(0), 0);
}

}  // namespace
}  // namespace tidegate
