#include "engine/stop_matcher.h"

#include <gtest/gtest.h>

namespace tidegate::stop_matcher_test {

// Feeds the text in pieces of `step` bytes and returns everything that came out.
std::string Feed(StopMatcher& matcher, const std::string& text, size_t step) {
  std::string out;
  for (size_t at = 0; at < text.size(); at += step) out += matcher.Add(text.substr(at, step));
  return out + matcher.Finish();
}

TEST(StopMatcherTest, FindsAStopHoweverTheTextIsCut) {
  for (size_t step = 1; step <= 12; ++step) {
    StopMatcher matcher({"END"}, false);
    EXPECT_EQ(Feed(matcher, "one EN ENEND two", step), "one EN EN") << step;
    EXPECT_EQ(matcher.matched(), "END");
  }
}

TEST(StopMatcherTest, HoldsBackOnlyWhatMayStillMatch) {
  StopMatcher matcher({"</s>", "\n\n"}, false);
  EXPECT_EQ(matcher.Add("abc<"), "abc");
  EXPECT_EQ(matcher.Add("/"), "");
  EXPECT_EQ(matcher.Add("x\n"), "</x");
  EXPECT_EQ(matcher.Add("y"), "\ny");
  EXPECT_EQ(matcher.Finish(), "");
  EXPECT_EQ(matcher.matched(), "");
}

TEST(StopMatcherTest, KeepsTheMatchWhenAsked) {
  StopMatcher matcher({"."}, true);
  EXPECT_EQ(Feed(matcher, "A b. C.", 2), "A b.");
}

TEST(StopMatcherTest, EarliestMatchWinsAndTheLongestOfThoseThere) {
  StopMatcher matcher({"b", "abc", "ab"}, false);
  EXPECT_EQ(matcher.Add("xxabcd"), "xx");
  EXPECT_EQ(matcher.matched(), "abc");
  EXPECT_EQ(matcher.Add("more"), "");
}

TEST(StopMatcherTest, FinishGivesBackAHalfMatch) {
  StopMatcher matcher({"STOP"}, false);
  EXPECT_EQ(matcher.Add("go STO"), "go ");
  EXPECT_EQ(matcher.Finish(), "STO");
}

TEST(StopMatcherTest, WithoutStopsNothingIsHeld) {
  StopMatcher matcher({""}, false);
  EXPECT_EQ(matcher.Add("text"), "text");
}

}  // namespace tidegate::stop_matcher_test
