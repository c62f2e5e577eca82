#include "base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace tidegate {
namespace {

// Names of files and models end in messages: none of them can write a line of its own.
TEST(Log, AMessageIsOneBoundedLine) {
  testing::internal::CaptureStderr();
  LogError("model a\n2026-01-01T00:00:00.000Z tidegate-store info: forged\x1b[2J\xff",
           std::string(100000, 'x'));
  const std::string line = testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
  EXPECT_EQ(line.find('\x1b'), std::string::npos);
  EXPECT_THAT(line, testing::HasSubstr("model a\\n2026"));
  EXPECT_LT(line.size(), 5000u);
}

}  // namespace
}  // namespace tidegate
