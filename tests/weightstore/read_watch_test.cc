#include "weightstore/read_watch.h"

#include <gtest/gtest.h>

namespace tidegate::read_watch_test {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Time = ReadWatch::Clock::time_point;

constexpr Time At(milliseconds time) { return Time(seconds(1000) + time); }

TEST(ReadWatchTest, CountsOneStallABurst) {
  StoreStats stats;
  ReadWatch watch(&stats);
  stats.flash_in_flight = 3;
  for (const milliseconds now : {seconds(1), seconds(4)}) {
    watch.Look(At(milliseconds(0)), At(now));
    EXPECT_EQ(stats.flash_stalls, 0u);
  }
  for (const milliseconds now : {seconds(5), seconds(6), seconds(60)}) {
    watch.Look(At(milliseconds(0)), At(now));
    EXPECT_EQ(stats.flash_stalls, 1u);
  }
  watch.Look(At(seconds(60)), At(seconds(61)));  // It came back, others are out.
  watch.Look(At(seconds(60)), At(seconds(66)));
  EXPECT_EQ(stats.flash_stalls, 2u);
}

TEST(ReadWatchTest, KeepsWhenTheOldestReadBegan) {
  StoreStats stats;
  ReadWatch watch(&stats);
  EXPECT_FALSE(watch.Due(At(seconds(1)))) << "nothing is out";
  stats.flash_in_flight = 1;
  EXPECT_TRUE(watch.Due(At(seconds(1))));
  watch.Look(At(seconds(1)), At(seconds(1)));
  EXPECT_EQ(stats.flash_oldest_read, uint64_t{1001'000'000'000});
  EXPECT_FALSE(watch.Due(At(seconds(1)))) << "just looked";
  EXPECT_TRUE(watch.Due(At(seconds(1) + ReadWatch::kInterval)));
  stats.flash_in_flight = 0;
  EXPECT_TRUE(watch.Due(At(seconds(1)))) << "it is not out any more";
  watch.Look(std::nullopt, At(seconds(2)));
  EXPECT_EQ(stats.flash_oldest_read, 0u);
  EXPECT_FALSE(watch.Due(At(seconds(9))));
}

}  // namespace tidegate::read_watch_test
