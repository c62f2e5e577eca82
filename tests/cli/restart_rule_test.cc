#include "cli/restart_rule.h"

#include <gtest/gtest.h>

#include <vector>

namespace tidegate::restart_rule_test {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(RestartRuleTest, WaitsLongerAndLongerThenGivesUp) {
  RestartRule rule;
  std::vector<int64_t> delays;
  while (const auto delay = rule.AfterEnd(seconds(1))) delays.push_back(delay->count());
  EXPECT_EQ(delays,
            (std::vector<int64_t>{500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000, 30000}));
  EXPECT_FALSE(rule.AfterEnd(seconds(59)).has_value());
}

TEST(RestartRuleTest, AMinuteOfHealthStartsAnew) {
  RestartRule rule;
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(rule.AfterEnd(seconds(0)).has_value());
  EXPECT_EQ(rule.AfterEnd(seconds(60)), milliseconds(500));
  EXPECT_EQ(rule.AfterEnd(seconds(59)), milliseconds(1000));
}

TEST(RestartRuleTest, FollowsItsLimits) {
  RestartRule rule({milliseconds(1), milliseconds(3), milliseconds(100), 3});
  EXPECT_EQ(rule.AfterEnd(seconds(0)), milliseconds(1));
  EXPECT_EQ(rule.AfterEnd(seconds(0)), milliseconds(2));
  EXPECT_EQ(rule.AfterEnd(seconds(0)), milliseconds(3));
  EXPECT_FALSE(rule.AfterEnd(seconds(0)).has_value());
  EXPECT_EQ(rule.AfterEnd(milliseconds(100)), milliseconds(1));
}

}  // namespace tidegate::restart_rule_test
