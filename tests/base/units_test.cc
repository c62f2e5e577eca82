#include "base/units.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tidegate::units_test {

using std::chrono::nanoseconds;

TEST(UnitsTest, ParsesBytes) {
  const std::pair<const char*, uint64_t> kRows[] = {{"0", 0},
                                                    {"4096", 4096},
                                                    {"64KiB", 65536},
                                                    {"16K", 16384},
                                                    {"1.5GiB", 1610612736},
                                                    {"1GB", 1000000000},
                                                    {"2MB", 2000000},
                                                    {"1kB", 1000},
                                                    {"3M", 3145728},
                                                    {"1TiB", uint64_t{1} << 40},
                                                    {"12B", 12},
                                                    {".5K", 512}};
  for (const auto& [text, bytes] : kRows) {
    const auto parsed = ParseBytes(text);
    ASSERT_TRUE(parsed.ok()) << text << ": " << parsed.status();
    EXPECT_EQ(*parsed, bytes) << text;
  }
}

TEST(UnitsTest, RefusesWhatIsNoNumberOfBytes) {
  for (const char* text : {"", "KiB", "-1", "1 GiB", "1XiB", "1..5K", "0x10", "nan", "inf", "1e3",
                           "1GiBs", "99999999999GiB"}) {
    const auto parsed = ParseBytes(text);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(parsed.status().message()), ::testing::HasSubstr(text)) << text;
  }
}

TEST(UnitsTest, WholeNumbersStayExactAndLargeOnesAreRefused) {
  EXPECT_EQ(*ParseBytes("9007199254740993"), 9007199254740993u);  // no double has this value
  EXPECT_EQ(*ParseBytes("1048576TiB"), uint64_t{1} << 60);
  EXPECT_EQ(*ParseDuration("9007199254740993ns"), nanoseconds(9007199254740993));
  EXPECT_EQ(*ParseDuration("876600h"), std::chrono::hours(876600));
  for (const char* text : {"1152921504606846977", "1048577TiB", "18446744073709551616",
                           "99999999999999999999999", "17000000000GiB", "0.5", "0.0001KiB"}) {
    EXPECT_EQ(ParseBytes(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  for (const char* text :
       {"876601h", "9223372036854775807ns", "18446744073709551615ns", "0.1ns", "300000000000h"}) {
    EXPECT_EQ(ParseDuration(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_FALSE(ParseCount(std::string(300, '9')).ok());
}

TEST(UnitsTest, ParsesDurations) {
  EXPECT_EQ(*ParseDuration("80us"), nanoseconds(80'000));
  EXPECT_EQ(*ParseDuration("1.5ms"), nanoseconds(1'500'000));
  EXPECT_EQ(*ParseDuration("2s"), nanoseconds(2'000'000'000));
  EXPECT_EQ(*ParseDuration("1m"), std::chrono::minutes(1));
  EXPECT_EQ(*ParseDuration("1h"), std::chrono::hours(1));
  EXPECT_EQ(*ParseDuration("7ns"), nanoseconds(7));
  for (const char* text : {"", "5", "1d", "-1s", "9999999999999h"}) {
    EXPECT_FALSE(ParseDuration(text).ok()) << text;
  }
}

TEST(UnitsTest, ParsesCounts) {
  EXPECT_EQ(*ParseCount("300"), 300);
  EXPECT_EQ(*ParseCount("200k"), 200'000);
  EXPECT_EQ(*ParseCount("1.5M"), 1'500'000);
  EXPECT_FALSE(ParseCount("1G").ok());
  EXPECT_FALSE(ParseCount("k").ok());
}

TEST(UnitsTest, FormatsBytes) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1023), "1023 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(1572864), "1.50 MiB");
  EXPECT_EQ(FormatBytes(uint64_t{5} << 30), "5.00 GiB");
}

TEST(UnitsTest, FormatsSeconds) {
  EXPECT_EQ(FormatSeconds(0.00005), "50 us");
  EXPECT_EQ(FormatSeconds(0.00123), "1.2 ms");
  EXPECT_EQ(FormatSeconds(59.96), "60.0 s");
  EXPECT_EQ(FormatSeconds(125), "2 min 05 s");
}

TEST(UnitsTest, RoundsUp) {
  EXPECT_EQ(RoundUp(0, 4096), 0u);
  EXPECT_EQ(RoundUp(1, 4096), 4096u);
  EXPECT_EQ(RoundUp(4096, 4096), 4096u);
  EXPECT_EQ(RoundUp(4097, 4096), 8192u);
}

}  // namespace tidegate::units_test
