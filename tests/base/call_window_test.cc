#include "base/call_window.h"

#include <gtest/gtest.h>

namespace tidegate::call_window_test {

const auto kNobody = [](uint64_t) -> CallWindow::Share* { return nullptr; };

TEST(CallWindow, OneConnectionHasItsPartAndAnswersGiveItBack) {
  CallWindow window(1000);
  CallWindow::Share share;
  for (int i = 0; i < CallWindow::kSharePlaces; ++i) ASSERT_TRUE(window.Begin(share));
  EXPECT_FALSE(window.Begin(share));
  window.Answered(share, 0);
  EXPECT_TRUE(window.Begin(share));
  EXPECT_EQ(window.held(), CallWindow::kSharePlaces);
}

TEST(CallWindow, AFullWindowLeavesOthersTheirAssuredPlaces) {
  CallWindow window(64);
  CallWindow::Share greedy, other;
  while (window.Begin(greedy)) {
  }
  EXPECT_EQ(window.held(), 64);
  int places = 0;
  while (window.Begin(other)) ++places;
  EXPECT_EQ(places, CallWindow::kAssuredPlaces);
}

TEST(CallWindow, NoNumberOfConnectionsGoesBeyondAllAssuredPlaces) {
  CallWindow window(16);
  for (int connection = 0; connection < 100; ++connection) {
    CallWindow::Share share;
    while (window.Begin(share)) {
    }
  }
  EXPECT_EQ(window.held(), 16 * CallWindow::kAssuredPlacesAll);
}

TEST(CallWindow, AnAbandonedCallKeepsItsPlaceForATime) {
  CallWindow window(16);
  CallWindow::Share share;
  const CallWindow::Clock::time_point now{};
  const auto find = [&](uint64_t connection) { return connection == 7 ? &share : nullptr; };
  ASSERT_TRUE(window.Begin(share));
  window.Abandoned(share, 0, 7, now);
  EXPECT_EQ(window.held(), 1);
  window.Expire(now + CallWindow::kAbandonedTime - std::chrono::milliseconds(1), find);
  EXPECT_EQ(window.held(), 1);
  EXPECT_EQ(share.abandoned, 1);
  window.Expire(now + CallWindow::kAbandonedTime, find);
  EXPECT_EQ(window.held(), 0);
  EXPECT_EQ(share.abandoned, 0);
}

TEST(CallWindow, MessagesAreBoundedAndEverybodyMaySendASmallOne) {
  CallWindow window(16);
  CallWindow::Share greedy, other;
  ASSERT_TRUE(window.Begin(greedy) && window.Begin(other));
  size_t bytes = 0;
  while (window.AddBytes(greedy, 1 << 20)) bytes += 1 << 20;
  EXPECT_EQ(bytes, CallWindow::kBytes);
  EXPECT_TRUE(window.crowded());
  EXPECT_TRUE(window.AddBytes(other, CallWindow::kAssuredBytes));
  EXPECT_FALSE(window.AddBytes(other, 1));
  window.Answered(greedy, bytes);
  EXPECT_FALSE(window.crowded());
  EXPECT_TRUE(window.AddBytes(other, 1));
}

// Or connecting anew would give an attacker a new part of the window.
TEST(CallWindow, AClosedConnectionKeepsItsPlacesForATime) {
  CallWindow window(16);
  CallWindow::Share share;
  const CallWindow::Clock::time_point now{};
  ASSERT_TRUE(window.Begin(share) && window.Begin(share));
  window.Abandoned(share, 0, 7, now);
  window.CloseShare(share, now);
  EXPECT_EQ(window.held(), 2);
  window.Expire(now + CallWindow::kAbandonedTime, kNobody);
  EXPECT_EQ(window.held(), 0);
}

}  // namespace tidegate::call_window_test
