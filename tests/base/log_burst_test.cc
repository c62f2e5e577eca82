#include "base/log_burst.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tidegate::log_burst_test {

using std::chrono::seconds;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(LogBurstTest, OneEventOfAPeriodIsWrittenAndTheNextOneSaysHowManyWereNot) {
  LogBurst burst(seconds(10));
  const LogBurst::Clock::time_point start(seconds(1000));
  EXPECT_EQ(burst.Take(start), 0u);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(burst.Take(start + seconds(i)), std::nullopt);
  EXPECT_EQ(burst.Take(start + seconds(10)), 5u);
  EXPECT_EQ(burst.Take(start + seconds(19)), std::nullopt);
  EXPECT_EQ(burst.Take(start + seconds(100)), 1u);
  EXPECT_EQ(burst.Take(start + seconds(200)), 0u);
}

TEST(LogBurstTest, TheLineIsThatOfTheFirst) {
  LogBurst burst(std::chrono::hours(1));
  testing::internal::CaptureStderr();
  for (int i = 1; i <= 1000; ++i) burst.Error("read ", i, " failed");
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("error: read 1 failed\n"));
  EXPECT_THAT(log, Not(HasSubstr("read 2")));
}

TEST(LogBurstTest, ALineAfterABurstCountsIt) {
  LogBurst burst(std::chrono::nanoseconds(0));
  testing::internal::CaptureStderr();
  burst.Warning("slow");
  burst.Warning("slow");
  EXPECT_THAT(testing::internal::GetCapturedStderr(), Not(HasSubstr("of the kind")));
}

}  // namespace tidegate::log_burst_test
