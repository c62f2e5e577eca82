#include "base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "nlohmann/json.hpp"

namespace tidegate::log_test {

using ::testing::HasSubstr;

// Names of files and models end in messages: none of them can write a line of its own.
TEST(Log, AMessageIsOneBoundedLine) {
  testing::internal::CaptureStderr();
  LogError("model a\n2026-01-01T00:00:00.000Z tidegate-store info: forged\x1b[2J\xff",
           std::string(100000, 'x'));
  const std::string line = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
  EXPECT_EQ(line.find('\x1b'), std::string::npos);
  EXPECT_THAT(line, HasSubstr("model a\\n2026"));
  EXPECT_LT(line.size(), 5000u);
}

TEST(Log, JsonLinesHoldTheSame) {
  SetLogFormat(LogFormat::kJson);
  const LogField fields[] = {{"request_id", "r\"1\n"}};
  testing::internal::CaptureStderr();
  Log(LogLevel::kWarning, "a \"b\"\n\x1b[2J\xff", fields);
  LogInfo(std::string(100000, 'x'));
  SetLogFormat(LogFormat::kText);
  Log(LogLevel::kInfo, "plain", fields);
  const std::string lines = testing::internal::GetCapturedStderr();
  ASSERT_EQ(std::count(lines.begin(), lines.end(), '\n'), 3) << lines.substr(0, 500);
  const size_t end = lines.find('\n');
  const nlohmann::json line = nlohmann::json::parse(lines.substr(0, end));
  EXPECT_EQ(line.at("message"), "a \"b\"\n\x1b[2J\xef\xbf\xbd");
  EXPECT_EQ(line.at("severity"), "warning");
  EXPECT_EQ(line.at("program"), "tidegate");
  EXPECT_EQ(line.at("request_id"), "r\"1\n");
  EXPECT_THAT(line.at("ts").get<std::string>(),
              testing::MatchesRegex("20..-..-..T..:..:..\\.......Z"));
  EXPECT_LT(lines.size(), 6000u);
  EXPECT_THAT(lines, HasSubstr("info: plain request_id=r\"1\\n\n"));
}

TEST(Log, TheLevelMayChange) {
  testing::internal::CaptureStderr();
  SetLogLevel(LogLevel::kError);
  LogWarning("one");
  SetLogLevel(LogLevel::kInfo);
  LogWarning("two");
  const std::string lines = testing::internal::GetCapturedStderr();
  EXPECT_EQ(lines.find("one"), std::string::npos);
  EXPECT_THAT(lines, HasSubstr("two"));
}

}  // namespace tidegate::log_test
