#include "base/memory_shedder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/units.h"

namespace tidegate::memory_shedder_test {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// A process in a group of 1 GiB: the margin is 64 MiB.
class MemoryShedderTest : public testing::Test {
 protected:
  // `own` and `left` in MiB, `after` the reading before.
  bool Sheds(uint64_t left, uint64_t own, milliseconds after = milliseconds(250)) {
    now_ += after;
    shedder_.Update({kGiB, left * kMiB, own * kMiB}, now_);
    return shedder_.shedding();
  }

  MemoryShedder shedder_;
  MemoryShedder::Clock::time_point now_{seconds(1000)};
};

TEST_F(MemoryShedderTest, TheMarginFollowsTheLimit) {
  EXPECT_EQ(MemoryShedder::Margin(100 * kMiB), 25 * kMiB);
  EXPECT_EQ(MemoryShedder::Margin(kGiB), 64 * kMiB);
  EXPECT_EQ(MemoryShedder::Margin(100 * kGiB), 5 * kGiB);
}

TEST_F(MemoryShedderTest, AnyGrowthIsWellWhileTheMarginIsLeft) {
  EXPECT_FALSE(Sheds(900, 100));
  EXPECT_FALSE(Sheds(64, 936));
}

TEST_F(MemoryShedderTest, GrowthIntoTheMarginSheds) {
  EXPECT_FALSE(Sheds(70, 100));
  EXPECT_FALSE(Sheds(60, 110));
  EXPECT_TRUE(Sheds(54, 116)) << "a quarter of the margin";
}

TEST_F(MemoryShedderTest, SheddingEndsOnceHalfOfTheGrowthIsGone) {
  Sheds(70, 100);
  EXPECT_TRUE(Sheds(50, 120));
  EXPECT_TRUE(Sheds(60, 109));
  EXPECT_FALSE(Sheds(63, 107));
  EXPECT_FALSE(Sheds(60, 110)) << "what began it is a whole step";
  EXPECT_TRUE(Sheds(54, 116));
  EXPECT_FALSE(Sheds(65, 116)) << "somebody else made room";
}

// Large caches, static weights: held by the time that the first client comes.
TEST_F(MemoryShedderTest, WhatWasHeldBeforeDoesNotCount) {
  EXPECT_FALSE(Sheds(30, 900));
  EXPECT_FALSE(Sheds(23, 907));
  EXPECT_TRUE(Sheds(22, 908));
}

TEST_F(MemoryShedderTest, WhereHardlyAnythingIsLeftLessGrowthSheds) {
  EXPECT_FALSE(Sheds(6, 900));
  EXPECT_FALSE(Sheds(4, 902));
  EXPECT_TRUE(Sheds(3, 903)) << "before the eight that make a step elsewhere";
}

TEST_F(MemoryShedderTest, WhereNothingIsLeftGrowthStillHasToBeSeen) {
  EXPECT_FALSE(Sheds(0, 900));
  EXPECT_FALSE(Sheds(0, 900));
  EXPECT_TRUE(Sheds(0, 901));
}

// The store's region grows in the same group, or another process does.
TEST_F(MemoryShedderTest, WhatOthersTakeDoesNotCount) {
  EXPECT_FALSE(Sheds(500, 100));
  for (const uint64_t left : {60, 30, 5, 0}) EXPECT_FALSE(Sheds(left, 104));
}

TEST_F(MemoryShedderTest, SheddingThatDoesNotHelpEndsAndOnlyFurtherGrowthCounts) {
  EXPECT_FALSE(Sheds(70, 100));
  EXPECT_TRUE(Sheds(40, 130));
  EXPECT_TRUE(Sheds(40, 130, milliseconds(1900)));
  EXPECT_FALSE(Sheds(40, 130, milliseconds(100)));
  EXPECT_FALSE(Sheds(40, 130, seconds(60)));
  EXPECT_FALSE(Sheds(31, 139));
  EXPECT_TRUE(Sheds(30, 140)) << "a quarter of the 40 MiB that were left";
}

TEST_F(MemoryShedderTest, SheddingThatHelpsGoesOnForAsLongAsItTakes) {
  EXPECT_FALSE(Sheds(70, 100));
  uint64_t own = 160;
  EXPECT_TRUE(Sheds(170 - own, own));
  while (own > 112) {
    own -= 4;
    EXPECT_TRUE(Sheds(170 - own, own, milliseconds(1500)));
  }
  EXPECT_FALSE(Sheds(64, 106));
}

TEST_F(MemoryShedderTest, AProcessThatShrinksHasItsNewSizeAsTheMeasure) {
  EXPECT_FALSE(Sheds(20, 500));
  EXPECT_FALSE(Sheds(30, 490));
  EXPECT_TRUE(Sheds(20, 500)) << "ten more than the least";
}

TEST(BusiestConnections, OneThatMakesHalfOfTheLoadGoesAlone) {
  EXPECT_THAT(BusiestConnections({{1, 20000, 1}, {2, 900000, 3}, {3, 20000, 400}}), ElementsAre(2));
}

TEST(BusiestConnections, OfManyAlikeSomeGo) {
  std::vector<ConnectionLoad> loads;
  for (uint64_t id = 1; id <= 30; ++id) loads.push_back({id, 1000000, 10});
  EXPECT_THAT(BusiestConnections(loads), SizeIs(kConnectionsAtOnce));
  loads.resize(4);
  EXPECT_THAT(BusiestConnections(loads), SizeIs(2));
}

TEST(BusiestConnections, WithoutLoadTheOneWithTheMostCallsGoes) {
  EXPECT_THAT(BusiestConnections({{1, 0, 1}, {2, 0, 40}, {3, 0, 1}}), ElementsAre(2));
  EXPECT_THAT(BusiestConnections({{1, 0, 1}, {2, 50, 1}}), ElementsAre(2)) << "then single streams";
}

TEST(BusiestConnections, IdleOnesStay) {
  EXPECT_THAT(BusiestConnections({{1, 0, 0}, {2, 100, 0}}), IsEmpty()) << "a preface, a PING";
  EXPECT_THAT(BusiestConnections({{1, 0, 0}, {2, 100, 0}, {3, 0, 1}}), ElementsAre(3));
  EXPECT_THAT(BusiestConnections({}), IsEmpty());
}

}  // namespace tidegate::memory_shedder_test
