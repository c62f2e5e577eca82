#include "cli/memory_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/units.h"
#include "tests/support/tiny_pack.h"

namespace tidegate::memory_choice_test {

using ::testing::HasSubstr;

class MemoryChoiceTest : public TinyPackTest {
 protected:
  static uint64_t Whole() { return *WholeBudget(index(), {}); }
  // What has to be free so that `bytes` are left over.
  static uint64_t FreeFor(uint64_t bytes) {
    const uint64_t free = 2 * bytes;  // so little that half of it is kept
    EXPECT_EQ(free - KeptForOthers(free), bytes);
    return free;
  }
  static MemoryChoice Choose(const MemoryFacts& facts, std::optional<uint64_t> given = {},
                             const BudgetRequest& request = {}) {
    const auto choice = ChooseMemory(index(), request, given, facts);
    EXPECT_TRUE(choice.ok()) << choice.status();
    return choice.value_or(MemoryChoice());
  }
};

TEST_F(MemoryChoiceTest, AnEighthIsKeptWithinBounds) {
  EXPECT_EQ(KeptForOthers(0), 0u);
  EXPECT_EQ(KeptForOthers(100 * kMiB), 50 * kMiB);
  EXPECT_EQ(KeptForOthers(kGiB), 256 * kMiB);
  EXPECT_EQ(KeptForOthers(8 * kGiB), kGiB);
  EXPECT_EQ(KeptForOthers(1024 * kGiB), 2 * kGiB);
}

TEST_F(MemoryChoiceTest, AModelThatFitsGetsWhatItNeedsAndNoMore) {
  const MemoryChoice choice = Choose({.available = 8 * kGiB});
  EXPECT_EQ(choice.budget_bytes, Whole());
  EXPECT_EQ(choice.whole_bytes, Whole());
  EXPECT_EQ(choice.cached, 1);
  EXPECT_EQ(choice.reason, "the whole model");
}

TEST_F(MemoryChoiceTest, TheLeastOfMachineGroupAndRegionCounts) {
  const uint64_t some = Whole() * 3 / 4, more = FreeFor(Whole() - 1);
  const auto group = [](uint64_t left) { return GroupMemory{left + kMiB, left}; };
  MemoryChoice choice = Choose({.available = FreeFor(some), .group = group(more)});
  EXPECT_EQ(choice.budget_bytes, some);
  EXPECT_LT(choice.cached, 1);
  EXPECT_GT(choice.cached, 0);
  EXPECT_THAT(choice.reason, HasSubstr("free on this machine"));
  choice = Choose({.available = more, .group = group(FreeFor(some))});
  EXPECT_EQ(choice.budget_bytes, some);
  EXPECT_THAT(choice.reason, HasSubstr("free in the control group"));
  choice = Choose({.available = more,
                   .region_room = some - EngineReserve(index(), {}),
                   .region_dir = "/dev/shm"});
  EXPECT_EQ(choice.budget_bytes, some);
  EXPECT_THAT(choice.reason, HasSubstr("/dev/shm has room for"));
}

TEST_F(MemoryChoiceTest, WhatIsGivenIsTaken) {
  MemoryChoice choice = Choose({.available = 1}, Whole() - 1);
  EXPECT_EQ(choice.budget_bytes, Whole() - 1);
  EXPECT_EQ(choice.reason, "as given");
  EXPECT_LT(Choose({}, Whole() * 3 / 4).cached, 1);
  EXPECT_EQ(Choose({}, 2 * Whole()).cached, 1);
  EXPECT_EQ(Choose({}, 2 * Whole(), {.cache = false}).cached, 0);
}

TEST_F(MemoryChoiceTest, TooLittleSaysHowMuchIsNeeded) {
  const absl::Status given = ChooseMemory(index(), {}, 1000, {}).status();
  EXPECT_EQ(given.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(given.message()), HasSubstr("--memory: memory budget of 1000 B"));
  EXPECT_THAT(std::string(given.message()), HasSubstr("the smallest that works is"));
  const absl::Status chosen = ChooseMemory(index(), {}, {}, {.available = 20 * kKiB}).status();
  EXPECT_EQ(chosen.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(chosen.message()),
              HasSubstr(FormatBytes(20 * kKiB) + " are free on this machine, " +
                        FormatBytes(10 * kKiB) + " of them stay so: "));
  EXPECT_THAT(std::string(chosen.message()), HasSubstr("the smallest that works is"));
}

TEST_F(MemoryChoiceTest, ThisMachineHasMemory) {
  const MemoryFacts facts = ReadMemoryFacts("/dev/shm");
  EXPECT_GT(facts.available, 0u);
  EXPECT_EQ(facts.region_dir, "/dev/shm");
}

}  // namespace tidegate::memory_choice_test
