#include "cli/byte_values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tidegate::byte_values_test {

using ::testing::HasSubstr;

std::string Refusal(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

TEST(ByteRateTest, IsBytesPerSecond) {
  EXPECT_EQ(ParseByteRate("--flash", "1GB/s").value(), 1e9);
  EXPECT_EQ(ParseByteRate("--flash", "2KiB/s").value(), 2048);
  EXPECT_THAT(Refusal(ParseByteRate("--flash", "1GB").status()),
              HasSubstr("--flash: '1GB' is not a rate"));
  EXPECT_THAT(Refusal(ParseByteRate("--flash", "0B/s").status()), HasSubstr("above 0"));
  EXPECT_THAT(Refusal(ParseByteRate("--flash", "fast/s").status()), HasSubstr("--flash"));
}

TEST(ByteShareTest, IsBytesOrAPercentage) {
  EXPECT_EQ(ParseByteShare("--dram", "2KiB", 1000).value(), 2048u);
  EXPECT_EQ(ParseByteShare("--dram", "30%", 1000).value(), 300u);
  EXPECT_EQ(ParseByteShare("--dram", "0.5%", 1000).value(), 5u);
  EXPECT_EQ(ParseByteShare("--dram", "1000%", 1000).value(), 10000u);
}

TEST(ByteShareTest, RefusalsNameTheFlag) {
  for (const char* text : {"0%", "-1%", "1001%", "x%", "%", "nan%"}) {
    EXPECT_THAT(Refusal(ParseByteShare("--dram", text, 1000).status()),
                HasSubstr("--dram, percent"))
        << text;
  }
  EXPECT_THAT(Refusal(ParseByteShare("--dram", "much", 1000).status()), HasSubstr("--dram"));
}

}  // namespace tidegate::byte_values_test
