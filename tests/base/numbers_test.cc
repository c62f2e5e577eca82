#include "base/numbers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace tidegate::numbers_test {

using testing::HasSubstr;

constexpr uint64_t kMax64 = std::numeric_limits<uint64_t>::max();

TEST(Numbers, TakesDecimalDigits) {
  EXPECT_EQ(*ParseInteger("0"), 0u);
  EXPECT_EQ(*ParseInteger("010"), 10u);  // not octal
  EXPECT_EQ(*ParseInteger("18446744073709551615"), kMax64);
  EXPECT_EQ(*ParseInteger("7", {7, 7}), 7u);
}

TEST(Numbers, RefusesEverythingElseAndNamesTextAndRange) {
  for (const char* text : {"", " ", "-1", "+5", " 5", "5 ", "5\n", "0x10", "0b1", "1e3", "1.0",
                           "5x", "x5", "1_000", "1,000", "18446744073709551616",
                           "99999999999999999999999", "-18446744073709551615", "nan"}) {
    const auto number = ParseInteger(text);
    EXPECT_EQ(number.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(number.status().message()),
                HasSubstr("is not a whole number from 0 to 18446744073709551615"));
  }
  EXPECT_EQ(ParseInteger(std::string_view("5\0", 2)).ok(), false);
  EXPECT_EQ(ParseInteger("8", {1, 7}).status().message(), "'8' is not a whole number from 1 to 7");
  EXPECT_EQ(ParseInteger("0", {1, 7}).status().message(), "'0' is not a whole number from 1 to 7");
  EXPECT_EQ(ParseInteger("\x1b[1m", {1, 7}).status().message().find('\x1b'), std::string::npos);
  EXPECT_LT(ParseInteger(std::string(100000, '9')).status().message().size(), 200u);
}

TEST(Numbers, TakesRealNumbers) {
  EXPECT_EQ(*ParseReal("0.75"), 0.75);
  EXPECT_EQ(*ParseReal(".5"), 0.5);
  EXPECT_EQ(*ParseReal("-1"), -1);
  EXPECT_EQ(*ParseReal("1e-3"), 1e-3);
  EXPECT_EQ(*ParseReal("1", {0, 1}), 1);
  EXPECT_EQ(*ParseReal("0", {0, 1}), 0);
}

TEST(Numbers, RefusesWhatIsNotFiniteOrOutOfRange) {
  for (const char* text : {"", "nan", "NAN", "-nan", "inf", "-inf", "infinity", "1e400", "0x1p3",
                           "+0.5", " 0.5", "0.5 ", "0.5.5", "1,5", "half", "--1"}) {
    EXPECT_EQ(ParseReal(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_EQ(ParseReal("1.5", {0, 1}).status().message(), "'1.5' is not a number from 0 to 1");
  EXPECT_EQ(ParseReal("0", {0, 1, true}).status().message(), "'0' is not a number above 0 up to 1");
  EXPECT_EQ(ParseReal("-1", {.low = 0}).status().message(), "'-1' is not a number of 0 or more");
  constexpr double kFloat = std::numeric_limits<float>::max();
  EXPECT_EQ(ParseReal("much", {-kFloat, kFloat}).status().message(),
            "'much' is not a number such as 0.5");
}

}  // namespace tidegate::numbers_test
