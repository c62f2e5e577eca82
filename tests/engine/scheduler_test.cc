#include "engine/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tidegate::scheduler_test {

using testing::ElementsAre;
using testing::IsEmpty;
using Ids = std::vector<uint64_t>;
using Rows = std::vector<RowShare>;
using Needs = std::vector<SequenceNeed>;

constexpr uint32_t kMany = 1'000'000;  // pages

SchedulerLimits Limits(uint32_t sequences = 8, uint32_t prompt_rows = 256) {
  return {.sequences_max = sequences, .prompt_rows_max = prompt_rows, .page_tokens = 32};
}

// A prompt of which nothing is computed yet.
SequenceNeed Prompt(uint64_t id, uint32_t rows, uint64_t client = 1, int32_t priority = 0) {
  return {.id = id, .client = client, .priority = priority, .prompt_rows = rows};
}

SequenceNeed Decoding(uint64_t id, uint32_t positions, uint64_t client = 1, int32_t priority = 0) {
  return {.id = id,
          .client = client,
          .priority = priority,
          .positions = positions,
          .pages = (positions + 31) / 32};
}

TEST(SchedulerTest, NothingToDoIsAnEmptyPlan) {
  const StepPlan plan = Scheduler(Limits()).Next({}, {}, kMany);
  EXPECT_THAT(plan.rows, IsEmpty());
  EXPECT_THAT(plan.admit, IsEmpty());
  EXPECT_THAT(plan.preempt, IsEmpty());
}

TEST(SchedulerTest, WhatDecodesHasItsRowBesidePrompts) {
  Scheduler scheduler(Limits());
  const Needs running = {Prompt(1, 2000), Decoding(2, 40), Decoding(3, 7)};
  const StepPlan plan = scheduler.Next(running, Needs{Prompt(4, 20)}, kMany);
  EXPECT_THAT(plan.admit, ElementsAre(4));
  EXPECT_EQ(plan.rows, (Rows{{2, 1}, {3, 1}, {1, 236}, {4, 20}}));
}

TEST(SchedulerTest, OnePromptIsCutIntoAsFewChunksAsTheLimitAllowsOfEvenLength) {
  const struct {
    uint32_t left, limit;
    std::vector<uint32_t> chunks;
  } cases[] = {
      {1, 256, {1}},      {256, 256, {256}}, {257, 256, {129, 128}}, {600, 256, {200, 200, 200}},
      {20, 16, {10, 10}}, {3, 1, {1, 1, 1}}, {33, 16, {11, 11, 11}}, {7, 3, {3, 2, 2}}};
  for (const auto& c : cases) {
    Scheduler scheduler(Limits(8, c.limit));
    uint32_t left = c.left;
    std::vector<uint32_t> chunks;
    while (left > 0) {
      const StepPlan plan = scheduler.Next(Needs{Prompt(1, left)}, {}, kMany);
      ASSERT_EQ(plan.rows.size(), 1u);
      chunks.push_back(plan.rows[0].rows);
      left -= plan.rows[0].rows;
    }
    EXPECT_EQ(chunks, c.chunks) << c.left << " by " << c.limit;
  }
}

TEST(SchedulerTest, PromptsShareTheRows) {
  const struct {
    const char* what;
    uint32_t limit;
    Needs running;
    Rows rows;
  } cases[] = {
      {"all fit", 256, {Prompt(1, 100), Prompt(2, 50)}, {{1, 100}, {2, 50}}},
      {"a short one is through at once",
       256,
       {Prompt(1, 2000), Prompt(2, 20)},
       {{1, 236}, {2, 20}}},
      {"a quarter for the oldest", 100, {Prompt(1, 500), Prompt(2, 200)}, {{1, 25}, {2, 75}}},
      {"no more than the oldest needs", 100, {Prompt(1, 5), Prompt(2, 200)}, {{1, 5}, {2, 95}}},
      {"the shortest of the others first",
       100,
       {Prompt(1, 500), Prompt(2, 60), Prompt(3, 40), Prompt(4, 50)},
       {{1, 25}, {3, 40}, {4, 35}}},
      {"equally short: the older",
       100,
       {Prompt(1, 500), Prompt(2, 80), Prompt(3, 80)},
       {{1, 25}, {2, 75}}},
      {"the oldest is the shortest", 100, {Prompt(1, 90), Prompt(2, 91)}, {{1, 90}, {2, 10}}},
      {"a priority goes before length",
       100,
       {Prompt(1, 500), Prompt(2, 30), Prompt(3, 50, 1, 7)},
       {{1, 25}, {3, 50}, {2, 25}}},
      {"the oldest advances under any priority",
       100,
       {Prompt(1, 500), Prompt(2, 300, 1, 7)},
       {{1, 25}, {2, 75}}},
      {"one row goes to the oldest", 1, {Prompt(1, 9), Prompt(2, 1)}, {{1, 1}}},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(Scheduler(Limits(8, c.limit)).Next(c.running, {}, kMany).rows, c.rows) << c.what;
  }
}

TEST(SchedulerTest, AdmissionGoesByPriorityThenClientsThenArrival) {
  const struct {
    const char* what;
    uint32_t sequences;
    Needs running, waiting;
    Ids admit;
  } cases[] = {
      {"by arrival", 2, {}, {Prompt(1, 9), Prompt(2, 9), Prompt(3, 9)}, {1, 2}},
      {"no place", 1, {Decoding(1, 9)}, {Prompt(2, 9)}, {}},
      {"by priority", 2, {}, {Prompt(1, 9), Prompt(2, 9, 1, 1), Prompt(3, 9, 1, -1)}, {2, 1}},
      {"clients in turn",
       4,
       {},
       {Prompt(1, 9, 1), Prompt(2, 9, 1), Prompt(3, 9, 1), Prompt(4, 9, 2), Prompt(5, 9, 3)},
       {1, 4, 5, 2}},
      {"the client that runs least",
       4,
       {Decoding(1, 9, 1), Decoding(2, 9, 1), Decoding(3, 9, 2)},
       {Prompt(4, 9, 1), Prompt(5, 9, 2)},
       {5}},
      {"priority before clients",
       2,
       {Decoding(1, 9, 1)},
       {Prompt(2, 9, 2), Prompt(3, 9, 1, 1)},
       {3}},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(Scheduler(Limits(c.sequences)).Next(c.running, c.waiting, kMany).admit, c.admit)
        << c.what;
  }
}

TEST(SchedulerTest, TheNextFreePlaceGoesToTheClientThatDidNotHaveTheLastOne) {
  Scheduler scheduler(Limits(1));
  Needs waiting;
  for (uint64_t id = 1; id <= 1000; ++id) waiting.push_back(Prompt(id, 9, /*client=*/1));
  EXPECT_THAT(scheduler.Next({}, waiting, kMany).admit, ElementsAre(1));
  waiting.erase(waiting.begin());
  waiting.push_back(Prompt(2001, 9, /*client=*/2));
  EXPECT_THAT(scheduler.Next({}, waiting, kMany).admit, ElementsAre(2001));
  waiting.back() = Prompt(2002, 9, /*client=*/2);
  EXPECT_THAT(scheduler.Next({}, waiting, kMany).admit, ElementsAre(2)) << "in turn";
}

// A client is known after it has gone, so that it does not count as new with each request; but of
// many clients that have gone, nothing is kept.
TEST(SchedulerTest, TurnsOutliveOtherClientsThatComeAndGo) {
  Scheduler scheduler(Limits(1));
  const Needs present = {Prompt(1, 9, 1), Prompt(2, 9, 2)};
  EXPECT_THAT(scheduler.Next({}, present, kMany).admit, ElementsAre(1));
  for (uint64_t client = 3; client < 20'000; ++client) {
    const Needs waiting = {Prompt(1, 9, 1, -1), Prompt(client, 9, client)};
    ASSERT_THAT(scheduler.Next({}, waiting, kMany).admit, ElementsAre(client));
  }
  EXPECT_THAT(scheduler.Next({}, present, kMany).admit, ElementsAre(2));
}

TEST(SchedulerTest, ASequenceIsAdmittedIfItsPromptAndOnePageMoreAreFree) {
  const SequenceNeed half_read = {
      .id = 1, .client = 1, .prompt_rows = 64, .positions = 32, .pages = 1};
  const struct {
    const char* what;
    uint32_t free_pages;
    Needs running, waiting;
    Ids admit;
  } cases[] = {
      {"one page too few", 3, {Decoding(1, 5)}, {Prompt(2, 64)}, {}},
      {"just enough, with one for what decodes", 4, {Decoding(1, 5)}, {Prompt(2, 64)}, {2}},
      {"a page begun is a page", 4, {Decoding(1, 5)}, {Prompt(2, 65)}, {}},
      {"two need twice as much", 6, {Decoding(1, 5)}, {Prompt(2, 64), Prompt(3, 64)}, {2}},
      {"and have it", 7, {Decoding(1, 5)}, {Prompt(2, 64), Prompt(3, 64)}, {2, 3}},
      {"nobody overtakes", 6, {Decoding(1, 5)}, {Prompt(2, 640), Prompt(3, 9)}, {}},
      {"a running prompt keeps its own", 5, {half_read}, {Prompt(2, 64)}, {}},
      {"and the rest is free", 6, {half_read}, {Prompt(2, 64)}, {2}},
      {"what decodes takes its page first", 4, {Decoding(1, 32)}, {Prompt(2, 64)}, {}},
      {"shared pages are there",
       3,
       {Decoding(1, 5)},
       {{.id = 2, .client = 1, .prompt_rows = 32, .positions = 32, .pages = 1}},
       {2}},
      {"alone it need not wait", 1, {}, {Prompt(2, 64), Prompt(3, 9)}, {2}},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(Scheduler(Limits()).Next(c.running, c.waiting, c.free_pages).admit, c.admit)
        << c.what;
  }
}

TEST(SchedulerTest, SeveralChoicesAreAdmittedWhereThereIsRoomForAll) {
  const auto admits = [](uint32_t places, uint32_t choices, uint32_t rows, uint32_t free_pages) {
    SequenceNeed need = Prompt(2, rows);
    need.choices = choices;
    Scheduler scheduler(Limits(places));
    return !scheduler.Next(Needs{Decoding(1, 7)}, Needs{need}, free_pages).admit.empty();
  };
  EXPECT_TRUE(admits(4, 3, 40, kMany));
  EXPECT_FALSE(admits(4, 4, 40, kMany));
  // The prompt's two pages and one more, of each other choice a copy of the last and one more; one
  // for what decodes.
  EXPECT_TRUE(admits(8, 3, 40, 3 + 2 * 2 + 1));
  EXPECT_FALSE(admits(8, 3, 40, 3 + 2 * 2));
  // Nothing to copy of a full page.
  EXPECT_TRUE(admits(8, 3, 64, 3 + 2 + 1));
  EXPECT_FALSE(admits(8, 3, 64, 3 + 2));
  // Alone, also those that are more than there are places.
  SequenceNeed many = Prompt(2, 40);
  many.choices = 9;
  EXPECT_THAT(Scheduler(Limits(2)).Next({}, Needs{many, Prompt(3, 4)}, kMany).admit,
              ElementsAre(2));
  // While its prompt is read, the places are taken.
  EXPECT_THAT(Scheduler(Limits(9)).Next(Needs{many}, Needs{Prompt(3, 4)}, kMany).admit, IsEmpty());
}

TEST(SchedulerTest, ARowWithoutAFreePagePreemptsTheLastInRank) {
  const SequenceNeed sharing = {
      .id = 3, .client = 1, .positions = 64, .pages = 2, .pages_shared = 2};
  const struct {
    const char* what;
    uint32_t free_pages;
    Needs running;
    Ids preempt;
    Rows rows;
  } cases[] = {
      {"a page is free", 1, {Decoding(1, 32), Decoding(2, 5)}, {}, {{1, 1}, {2, 1}}},
      {"no page is needed", 0, {Decoding(1, 33), Decoding(2, 5)}, {}, {{1, 1}, {2, 1}}},
      {"the youngest goes",
       0,
       {Decoding(1, 32), Decoding(2, 5), Decoding(3, 5)},
       {3},
       {{1, 1}, {2, 1}}},
      {"of the lowest priority",
       0,
       {Decoding(1, 32, 1, 1), Decoding(2, 5, 1, 0), Decoding(3, 5, 1, 1)},
       {2},
       {{1, 1}, {3, 1}}},
      {"a prompt as well",
       0,
       {Decoding(1, 32), {.id = 2, .client = 1, .prompt_rows = 9, .positions = 32, .pages = 1}},
       {2},
       {{1, 1}}},
      {"never an older one: it goes itself", 0, {Decoding(1, 5), Decoding(2, 32)}, {2}, {{1, 1}}},
      {"never a higher one: it goes itself",
       0,
       {Decoding(1, 32), Decoding(2, 5, 1, 1)},
       {1},
       {{2, 1}}},
      {"one that goes frees pages for two",
       0,
       {Decoding(1, 32), Decoding(2, 64), Decoding(3, 40)},
       {3},
       {{1, 1}, {2, 1}}},
      {"as many as it takes",
       0,
       {Decoding(1, 32), Decoding(2, 64), Decoding(3, 5)},
       {3, 2},
       {{1, 1}}},
      {"pages that others hold stay",
       0,
       {Decoding(1, 32), Decoding(2, 40), sharing},
       {3, 2},
       {{1, 1}}},
      {"alone it stays: the pool refuses the row", 0, {Decoding(1, 32)}, {}, {{1, 1}}},
  };
  for (const auto& c : cases) {
    const StepPlan plan = Scheduler(Limits()).Next(c.running, Needs{Prompt(9, 999)}, c.free_pages);
    EXPECT_EQ(plan.preempt, c.preempt) << c.what;
    EXPECT_THAT(plan.admit, IsEmpty()) << c.what;
    EXPECT_EQ(Rows(plan.rows.begin(), plan.rows.begin() + c.rows.size()), c.rows) << c.what;
  }
}

TEST(SchedulerTest, WhatWasPreemptedIsFirstAndWaitsForAMargin) {
  Scheduler scheduler(Limits());
  Needs running = {Decoding(1, 32), Decoding(2, 40, 2), Decoding(3, 41, 2)};
  EXPECT_THAT(scheduler.Next(running, {}, 0).preempt, ElementsAre(3));
  running.pop_back();
  // One decodes into a new page. It wants 3 pages beside two for each that decodes; what another
  // client sent wants as many beside one for each.
  const Needs waiting = {Prompt(8, 40, 9), Prompt(3, 42, 2)};
  EXPECT_THAT(scheduler.Next(running, waiting, 7).admit, IsEmpty());
  EXPECT_THAT(scheduler.Next(running, Needs{Prompt(8, 40, 9, 1), Prompt(3, 42, 2)}, 7).admit,
              ElementsAre(8))
      << "a higher priority";
  EXPECT_THAT(scheduler.Next(running, waiting, 8).admit, ElementsAre(3));
  EXPECT_THAT(scheduler.Next(running, waiting, 6).admit, ElementsAre(8)) << "now like any other";
}

TEST(SchedulerTest, WhatWasPreemptedAndCancelledIsForgotten) {
  Scheduler scheduler(Limits());
  Needs running = {Decoding(1, 32), Decoding(2, 40)};
  EXPECT_THAT(scheduler.Next(running, {}, 0).preempt, ElementsAre(2));
  running.pop_back();
  EXPECT_THAT(scheduler.Next(running, {}, 1).preempt, IsEmpty());
  EXPECT_THAT(scheduler.Next(running, Needs{Prompt(3, 9, 2), Prompt(2, 9)}, kMany).admit,
              ElementsAre(3, 2));
}

TEST(SchedulerTest, PromptsThatLackPagesTakeWhatIsFree) {
  const auto read = [](uint64_t id, uint32_t left, uint32_t positions) {
    return SequenceNeed{.id = id,
                        .client = 1,
                        .prompt_rows = left,
                        .positions = positions,
                        .pages = (positions + 31) / 32};
  };
  const struct {
    const char* what;
    uint32_t free_pages;
    Needs running;
    Ids preempt;
    Rows rows;
  } cases[] = {
      {"to the end of a page", 0, {Decoding(1, 9), read(2, 99, 20)}, {}, {{1, 1}, {2, 12}}},
      {"and the free pages", 2, {Decoding(1, 9), read(2, 99, 20)}, {}, {{1, 1}, {2, 76}}},
      {"none: it waits", 0, {Decoding(1, 9), read(2, 99, 32)}, {}, {{1, 1}}},
      {"the oldest takes them first", 1, {read(1, 99, 32), read(2, 9, 32)}, {}, {{1, 32}}},
      {"prompts alone do not wait for each other",
       0,
       {read(1, 99, 32), read(2, 99, 64), read(3, 99, 32)},
       {3},
       {{1, 32}}},
      {"nor does one that shares",
       0,
       {read(1, 99, 32),
        {.id = 2, .client = 1, .prompt_rows = 9, .positions = 32, .pages = 1, .pages_shared = 1}},
       {2},
       {{1, 99}}},
      {"alone: the pool refuses the rows", 0, {read(1, 99, 32)}, {}, {{1, 99}}},
  };
  for (const auto& c : cases) {
    const StepPlan plan = Scheduler(Limits()).Next(c.running, {}, c.free_pages);
    EXPECT_EQ(plan.preempt, c.preempt) << c.what;
    EXPECT_EQ(plan.rows, c.rows) << c.what;
  }
}

// A machine whose steps take base + by_row * (prompt rows): the rows that the scheduler gives a
// long prompt there, step by step.
class TargetTest : public testing::Test {
 protected:
  SchedulerLimits WithTarget(double seconds) {
    SchedulerLimits limits = Limits();
    limits.step_seconds_target = seconds;
    return limits;
  }
  uint32_t PromptRows(Scheduler& scheduler) {
    const Needs running = {Decoding(1, 9), Prompt(2, 100'000)};
    return scheduler.Next(running, {}, kMany).rows.back().rows;
  }
  // The seconds of the last of so many steps.
  double Run(Scheduler& scheduler, int steps) {
    double seconds = 0;
    for (int i = 0; i < steps; ++i) {
      const uint32_t rows = PromptRows(scheduler);
      EXPECT_GE(rows, Scheduler::kPromptRowsMin);
      seconds = base_ + by_row_ * rows;
      scheduler.OnStep(seconds, 1, rows);
    }
    return seconds;
  }

  double base_ = 0.1, by_row_ = 0.002;
};

TEST_F(TargetTest, RowsBesideDecodingKeepTheTarget) {
  Scheduler scheduler(WithTarget(0.3));
  EXPECT_EQ(PromptRows(scheduler), Scheduler::kPromptRowsMin) << "it begins carefully";
  EXPECT_NEAR(Run(scheduler, 30), 0.3, 0.03) << "with no step of decoding alone";
  scheduler.OnStep(0.1, 1, 0);
  EXPECT_NEAR(Run(scheduler, 10), 0.3, 0.03);
  base_ = 0.2;  // More sequences decode.
  EXPECT_NEAR(Run(scheduler, 30), 0.3, 0.03);
  for (int i = 0; i < 20; ++i) scheduler.OnStep(0.5, 1, 0);
  base_ = 0.05;  // Most have left.
  EXPECT_NEAR(Run(scheduler, 30), 0.3, 0.03);
  by_row_ = 0.01;  // The drive has other work.
  EXPECT_NEAR(Run(scheduler, 30), 0.3, 0.03);
}

TEST_F(TargetTest, OneSlowStepIsForgotten) {
  Scheduler scheduler(WithTarget(0.3));
  scheduler.OnStep(0.1, 1, 0);
  Run(scheduler, 20);
  scheduler.OnStep(10, 1, 50);
  EXPECT_EQ(PromptRows(scheduler), Scheduler::kPromptRowsMin);
  EXPECT_NEAR(Run(scheduler, 40), 0.3, 0.03);
}

TEST_F(TargetTest, StepsOfPromptsAloneSayNothingOfStepsWithBoth) {
  Scheduler scheduler(WithTarget(0.3));
  Run(scheduler, 20);
  const uint32_t rows = PromptRows(scheduler);
  EXPECT_GT(rows, 50u);
  scheduler.OnStep(10, 0, 256);
  EXPECT_EQ(PromptRows(scheduler), rows);
}

TEST_F(TargetTest, PromptsAdvanceEvenBeyondTheTarget) {
  Scheduler scheduler(WithTarget(0.05));
  scheduler.OnStep(0.1, 1, 0);
  EXPECT_NEAR(Run(scheduler, 20), 0.15, 0.01) << "half as long again as decoding alone";
  by_row_ = 0.02;
  Run(scheduler, 20);
  EXPECT_EQ(PromptRows(scheduler), Scheduler::kPromptRowsMin);
}

TEST_F(TargetTest, TheLimitOfAStepHoldsBesideTheTarget) {
  Scheduler scheduler(WithTarget(1000));
  Run(scheduler, 20);
  EXPECT_EQ(PromptRows(scheduler), 256u) << "391 chunks of at most 256";
  by_row_ = 0;  // Prompt rows cost nothing beside a sweep.
  base_ = 1;
  Run(scheduler, 40);
  EXPECT_EQ(PromptRows(scheduler), 256u);
}

TEST_F(TargetTest, NothingLimitsPromptsBesideWhichNothingDecodes) {
  Scheduler scheduler(WithTarget(0.05));
  Run(scheduler, 20);
  EXPECT_EQ(scheduler.Next(Needs{Prompt(2, 512)}, {}, kMany).rows, (Rows{{2, 256}}));
}

TEST_F(TargetTest, WithoutATargetNothingIsLimited) {
  Scheduler scheduler(Limits());
  by_row_ = 10;
  Run(scheduler, 20);
  EXPECT_EQ(PromptRows(scheduler), 256u);
}

}  // namespace tidegate::scheduler_test
