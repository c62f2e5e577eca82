#include "base/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/units.h"
#include "tests/support/test_support.h"

namespace tidegate::progress_test {

using ::testing::HasSubstr;

TEST(ProgressTest, LinesSayShareAmountRateAndTimeLeft) {
  EXPECT_EQ(
      ProgressBarLine("packing", kGiB, 2 * kGiB, 2),
      "packing [############............]  50 %  1.00 GiB of 2.00 GiB, 512.00 MiB/s, 2.0 s left");
  EXPECT_EQ(ProgressBarLine("packing", 0, kGiB, 0),
            "packing [........................]   0 %  0 B of 1.00 GiB");
  EXPECT_EQ(ProgressPlainLine("verifying", kGiB, kGiB, 4),
            "verifying: 100 % (1.00 GiB of 1.00 GiB, 256.00 MiB/s, 4.0 s)");
  EXPECT_EQ(ProgressPlainLine("scoring", 256, 512, 4, "tokens"),
            "scoring: 50 % (256 of 512 tokens, 64/s, 4.0 s left)");
  // Nothing to do, and more done than announced: full, not a division by zero.
  EXPECT_THAT(ProgressBarLine("x", 0, 0, 1), HasSubstr("100 %"));
  EXPECT_THAT(ProgressPlainLine("x", 11, 10, 1), HasSubstr("100 %"));
}

std::string Draw(bool terminal, int steps) {
  TempDir dir;
  std::FILE* out = std::fopen(dir.File("out").c_str(), "w");
  {
    Progress progress("packing", out, terminal);
    for (int i = 1; i <= steps; ++i)
      progress.Update(static_cast<uint64_t>(i), static_cast<uint64_t>(steps));
  }
  std::fclose(out);
  return ReadFileOrDie(dir.File("out"));
}

TEST(ProgressTest, WithoutATerminalThereAreAtMostTenLines) {
  const std::string text = Draw(false, 1000);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 10);
  EXPECT_THAT(text, ::testing::StartsWith("packing: 10 % ("));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("\r")));
  const std::string few = Draw(false, 3);
  EXPECT_EQ(std::count(few.begin(), few.end(), '\n'), 3);
}

TEST(ProgressTest, OnATerminalOneLineIsRedrawnAndEnded) {
  const std::string text = Draw(true, 1000);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  EXPECT_EQ(text.front(), '\r');
  EXPECT_EQ(text.back(), '\n');
  EXPECT_THAT(text, HasSubstr("100 %"));
}

}  // namespace tidegate::progress_test
