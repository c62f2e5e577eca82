#include "weightstore/client/patience.h"

#include <gtest/gtest.h>

#include "tests/support/test_support.h"

namespace tidegate::patience_test {

absl::Status Refuse(std::chrono::nanoseconds) { return absl::CancelledError("enough"); }

TEST(Patience, CountsFromWhatIsOwedToTheLastSignOfLife) {
  Patience patience;
  EXPECT_EQ(patience.silent().count(), 0);
  patience.Owed();
  const auto first = patience.silent();
  EXPECT_TRUE(WaitUntil([&] { return patience.silent() > first; }, std::chrono::seconds(20)));
  patience.Paid();
  EXPECT_EQ(patience.silent().count(), 0);
}

TEST(Patience, WhatWasGivenUpStaysInDoubtUntilSettled) {
  Patience patience(Refuse);
  patience.Owed();
  EXPECT_FALSE(patience.Check().ok());
  patience.Paid();  // of another wait
  EXPECT_TRUE(patience.in_doubt());
  EXPECT_TRUE(WaitUntil([&] { return patience.silent().count() > 0; }, std::chrono::seconds(20)));
  patience.Settle();
  EXPECT_FALSE(patience.in_doubt());
  EXPECT_EQ(patience.silent().count(), 0);
}

}  // namespace tidegate::patience_test
