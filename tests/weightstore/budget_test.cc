#include "weightstore/budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <regex>
#include <utility>

#include "base/units.h"
#include "proto/store/v1/step_workspace.h"
#include "tests/support/tiny_pack.h"

namespace tidegate::budget_test {

using ::testing::HasSubstr;

class BudgetTest : public TinyPackTest {
 protected:
  static const PackGeometry& geometry() { return index().geometry; }
  static uint64_t LargestBlock() {
    return std::max(geometry().kinds[0].block_bytes, geometry().kinds[1].block_bytes);
  }
  // What the plan costs, without the store's tables.
  static uint64_t Cost(const RegionPlan& plan) {
    return MakeRegionHeader(geometry(), index().header.uuid, plan).region_bytes +
           SessionBytes(SessionMaxBlocks(geometry())) + plan.engine_reserve_bytes;
  }
  static uint64_t SlotBytes(const RegionPlan& plan) {
    uint64_t bytes = 0;
    for (uint32_t k = 0; k < kUnitKinds; ++k) {
      bytes += uint64_t{geometry().layer_count} * plan.slots_per_layer[k] *
               geometry().kinds[k].block_bytes;
    }
    return bytes;
  }
  // The budget that the error for `request` with a budget of nothing recommends, in KiB.
  static uint64_t SmallestKib(BudgetRequest request) {
    request.memory_budget_bytes = 0;
    const auto plan = PlanRegion(index(), request);
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
    const std::string message(plan.status().message());
    std::smatch match;
    EXPECT_TRUE(std::regex_search(message, match, std::regex("smallest that works is (\\d+)KiB")))
        << message;
    return match.empty() ? 0 : std::stoull(match[1]);
  }
  static void ExpectExactlySmallest(BudgetRequest request) {
    const uint64_t smallest = SmallestKib(request) * kKiB;
    request.memory_budget_bytes = smallest;
    const auto plan = PlanRegion(index(), request);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_LE(Cost(*plan), smallest);
    EXPECT_EQ(plan->slots_per_layer[0] >= 1 && plan->slots_per_layer[1] >= 1, request.cache);
    request.memory_budget_bytes = smallest - kKiB;
    EXPECT_EQ(PlanRegion(index(), request).status().code(), absl::StatusCode::kResourceExhausted);
  }
};

TEST_F(BudgetTest, ThePackIsWhatTheseTestsAreAbout) {
  ASSERT_EQ(geometry().layer_count, 2u);
  ASSERT_EQ(geometry().kinds[0].block_bytes, 8192u);
  ASSERT_EQ(geometry().kinds[1].block_bytes, 4096u);
  ASSERT_EQ(geometry().kinds[0].block_count, 64u);
  ASSERT_EQ(geometry().kinds[1].block_count, 64u);
}

TEST_F(BudgetTest, TheSmallestBudgetNamedWorksAndOneKibLessDoesNot) {
  ExpectExactlySmallest({});
  ExpectExactlySmallest({.engine_reserve_bytes = 0});
  ExpectExactlySmallest({.cache = false});
  ExpectExactlySmallest({.staging_bytes = 128 * kKiB});
}

// The share of the budget that goes to staging grows with the budget: it must not push the smallest
// budget up once one follows the advice.
TEST_F(BudgetTest, TheSmallestBudgetNamedWorksWhereStagingWouldGrow) {
  for (const uint64_t reserve : {8 * kMiB, 64 * kMiB, 4 * kGiB}) {
    ExpectExactlySmallest({.engine_reserve_bytes = reserve});
    ExpectExactlySmallest({.engine_reserve_bytes = reserve, .cache = false});
  }
}

TEST_F(BudgetTest, TheErrorNamesBudgetAndParts) {
  const auto plan = PlanRegion(index(), {.memory_budget_bytes = 100 * kKiB});
  const std::string message(plan.status().message());
  EXPECT_THAT(message, HasSubstr(FormatBytes(100 * kKiB)));
  // The embedding, the last tensor, may stay on flash.
  const uint64_t statics = index().manifest.static_tensors().rbegin()->offset();
  EXPECT_THAT(message, HasSubstr("static weights " + FormatBytes(statics)));
  EXPECT_THAT(message, HasSubstr("engine reserve "));
  EXPECT_THAT(message, HasSubstr("one slot per layer and kind " + FormatBytes(2 * (8192 + 4096))));
}

TEST_F(BudgetTest, SlotsGrowWithTheBudgetAndFillIt) {
  const uint64_t smallest = SmallestKib({.staging_bytes = 64 * kKiB}) * kKiB;
  const uint64_t tables = 40 * geometry().layer_count * geometry().layer_blocks();
  uint64_t before = 0;
  for (uint64_t extra = 0; extra <= geometry().blocks_bytes(); extra += 37 * kKiB) {
    const uint64_t budget = smallest + extra;
    const auto plan =
        PlanRegion(index(), {.memory_budget_bytes = budget, .staging_bytes = 64 * kKiB});
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_LE(Cost(*plan) + tables, budget);
    const uint64_t slots = SlotBytes(*plan);
    EXPECT_GE(slots, before) << budget;
    before = slots;
    const bool complete = plan->slots_per_layer[0] == 64 && plan->slots_per_layer[1] == 64;
    if (!complete) {  // Less is left than one more slot of the largest kind in each layer takes.
      EXPECT_LT(budget - Cost(*plan) - tables, geometry().layer_count * LargestBlock()) << budget;
    }
    EXPECT_LE(plan->slots_per_layer[0], 64u);
    EXPECT_LE(plan->slots_per_layer[1], 64u);
  }
  EXPECT_GT(before, geometry().blocks_bytes() * 9 / 10);
}

TEST_F(BudgetTest, TheEmbeddingIsInMemoryWhereEverythingIs) {
  const store::v1::StaticTensor& last = *index().manifest.static_tensors().rbegin();
  ASSERT_EQ(last.name(), "token_embd.weight");
  const auto plan = [](uint64_t budget) {
    const auto made =
        PlanRegion(index(), {.memory_budget_bytes = budget, .staging_bytes = 64 * kKiB});
    EXPECT_TRUE(made.ok()) << made.status();
    return *made;
  };
  uint64_t budget = SmallestKib({.staging_bytes = 64 * kKiB}) * kKiB;
  for (; SlotBytes(plan(budget)) < geometry().blocks_bytes(); budget += kKiB) {
    ASSERT_EQ(plan(budget).static_bytes, last.offset());
  }
  // All slots, and the embedding follows once there is room for it too.
  EXPECT_EQ(plan(budget).static_bytes, last.offset());
  budget += last.bytes() + 4 * kKiB;
  EXPECT_EQ(plan(budget).static_bytes, index().header.static_bytes);
  EXPECT_EQ(SlotBytes(plan(budget)), geometry().blocks_bytes());
}

// Staging grows with the budget, but not out of what the last slots need.
TEST_F(BudgetTest, WhatHoldsEverythingOnceHoldsItWithMore) {
  bool complete = false, embedding = false;
  for (uint64_t budget = SmallestKib({}) * kKiB; budget <= 64 * kMiB; budget += 16 * kKiB) {
    const auto plan = PlanRegion(index(), {.memory_budget_bytes = budget});
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_LE(Cost(*plan), budget);
    const bool now = SlotBytes(*plan) == geometry().blocks_bytes();
    ASSERT_TRUE(now || !complete) << budget;
    complete = now;
    const bool inside = plan->static_bytes == index().header.static_bytes;
    ASSERT_TRUE(inside || !embedding) << budget;
    embedding = inside;
  }
  EXPECT_TRUE(complete && embedding);
}

TEST_F(BudgetTest, BothKindsHoldAboutTheSameShare) {
  const uint64_t smallest = SmallestKib({}) * kKiB;
  const auto plan =
      PlanRegion(index(), {.memory_budget_bytes = smallest + geometry().blocks_bytes() / 2});
  ASSERT_TRUE(plan.ok());
  EXPECT_NEAR(plan->slots_per_layer[0], plan->slots_per_layer[1], 2);
}

TEST_F(BudgetTest, AnInputShareDividesTheSlots) {
  const uint64_t smallest = SmallestKib({}) * kKiB;
  const auto plan = [&](double share, uint64_t extra) {
    const auto made =
        PlanRegion(index(), {.memory_budget_bytes = smallest + extra, .input_share = share});
    EXPECT_TRUE(made.ok()) << made.status();
    return *made;
  };
  const uint64_t half = geometry().blocks_bytes() / 2;
  for (const double share : {0.4, 0.5, 0.9}) {
    const RegionPlan made = plan(share, half);
    const double input = 2.0 * made.slots_per_layer[0] * 8192;
    EXPECT_NEAR(input / static_cast<double>(SlotBytes(made)), share, 0.03) << share;
  }
  // Half of everything is three quarters of the input units, or all hidden units and a quarter of
  // the input units.
  EXPECT_NEAR(plan(1, half).slots_per_layer[0], 48, 2);
  EXPECT_EQ(plan(1, half).slots_per_layer[1], 1u);
  EXPECT_EQ(plan(0, half).slots_per_layer[1], 64u);
  EXPECT_NEAR(plan(0, half).slots_per_layer[0], 16, 2);
  EXPECT_EQ(SlotBytes(plan(0.9, 2 * half + kMiB)), geometry().blocks_bytes());
}

TEST_F(BudgetTest, AnInputShareOfAFractionIsExact) {
  const auto slots = [](double fraction, double share) {
    const auto plan = PlanRegion(index(), {.cache_fraction = fraction, .input_share = share});
    EXPECT_TRUE(plan.ok()) << plan.status();
    return std::pair(plan->slots_per_layer[0], plan->slots_per_layer[1]);
  };
  // A third of the units' bytes are hidden units'.
  EXPECT_EQ(slots(0.5, 1), std::pair(48u, 0u));
  EXPECT_EQ(slots(0.5, 0), std::pair(16u, 64u));
  EXPECT_EQ(slots(0.5, 0.5), std::pair(24u, 48u));
  EXPECT_EQ(slots(0.75, 1), std::pair(64u, 16u));
  EXPECT_EQ(slots(1, 0.3), std::pair(64u, 64u));
  for (const double share : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_EQ(
        PlanRegion(index(), {.memory_budget_bytes = kGiB, .input_share = share}).status().code(),
        absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(BudgetTest, MoreThanEnoughHoldsTheWholeModelAndNoMore) {
  const auto plan = PlanRegion(index(), {.memory_budget_bytes = 1000 * kGiB});
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(SlotBytes(*plan), geometry().blocks_bytes());
}

TEST_F(BudgetTest, TheWholeBudgetHoldsEverythingAndMuchLessDoesNot) {
  for (const uint64_t staging : {0 * kKiB, 64 * kKiB}) {
    BudgetRequest request = {.engine_reserve_bytes = 64 * kKiB, .staging_bytes = staging};
    const auto whole = WholeBudget(index(), request);
    ASSERT_TRUE(whole.ok()) << whole.status();
    request.memory_budget_bytes = *whole;
    const auto plan = PlanRegion(index(), request);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_LE(BudgetBytes(index(), *plan), *whole);
    EXPECT_EQ(plan->static_bytes, index().header.static_bytes);
    EXPECT_EQ(plan->slots_per_layer[0], 64u);
    EXPECT_EQ(plan->slots_per_layer[1], 64u);
    request.memory_budget_bytes = *whole * 7 / 8;
    EXPECT_LT(PlanRegion(index(), request)->slots_per_layer[0], 64u);
    request.cache = false;
    EXPECT_LE(*WholeBudget(index(), request), *whole - geometry().blocks_bytes());
  }
  EXPECT_FALSE(WholeBudget(index(), {.staging_bytes = 1}).ok());
}

TEST_F(BudgetTest, CacheFractionIsExactWhateverTheBudget) {
  for (const double fraction : {0.0, 0.01, 0.25, 0.3, 0.5, 0.999, 1.0}) {
    const auto plan = PlanRegion(index(), {.memory_budget_bytes = 1, .cache_fraction = fraction});
    ASSERT_TRUE(plan.ok()) << plan.status();
    for (const uint32_t slots : plan->slots_per_layer) {
      EXPECT_EQ(slots, static_cast<uint32_t>(std::floor(fraction * 64))) << fraction;
    }
  }
  for (const double fraction : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_EQ(PlanRegion(index(), {.cache_fraction = fraction}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(BudgetTest, WithoutCacheThereAreNoSlots) {
  const auto plan = PlanRegion(index(), {.memory_budget_bytes = kGiB, .cache = false});
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->slots_per_layer[0] + plan->slots_per_layer[1], 0u);
  const auto small = PlanRegion(
      index(), {.memory_budget_bytes = Cost(*plan) - geometry().blocks_bytes(), .cache = false});
  ASSERT_TRUE(small.ok()) << small.status();
  EXPECT_EQ(small->static_bytes, index().header.static_bytes) << "there is room for it";
}

TEST_F(BudgetTest, StagingIsChosenWithinBounds) {
  for (uint64_t budget = 16 * kMiB; budget <= 64 * kGiB; budget *= 2) {
    const auto plan = PlanRegion(index(), {.memory_budget_bytes = budget});
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_GE(plan->staging_bytes, 2 * LargestBlock());
    EXPECT_LE(plan->staging_bytes, 4 * kMiB);
    EXPECT_EQ(plan->staging_bytes % kPageBytes, 0u);
    EXPECT_LE(Cost(*plan), budget);
    if (budget >= 2 * kGiB) {
      EXPECT_EQ(plan->staging_bytes, 4 * kMiB);
    }
  }
}

TEST_F(BudgetTest, StagingAskedForIsRoundedToPagesAndHoldsABlock) {
  BudgetRequest request = {.memory_budget_bytes = kGiB, .staging_bytes = 10000};
  EXPECT_EQ(PlanRegion(index(), request)->staging_bytes, 12288u);
  request.staging_bytes = LargestBlock();
  EXPECT_EQ(PlanRegion(index(), request)->staging_bytes, LargestBlock());
  request.staging_bytes = 4096;
  const auto plan = PlanRegion(index(), request);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("give at least 8192 bytes"));
}

// Beside what a model as small as this takes (24 MiB), an engine's workspace is in its reserve.
TEST_F(BudgetTest, TheDefaultReserveHoldsTheWorkspaceOfALargeModel) {
  PackIndex large = index();
  large.manifest.mutable_hyper_parameters()->set_embedding_rows(2'000'000);
  const uint64_t reserve = DefaultEngineReserve(large, 2);
  const uint64_t logits = 2'000'000 * uint64_t{16 * 4 + 16};  // of 16 rows, and one to draw from
  EXPECT_GE(reserve, logits - kWorkspaceBesideReserve);
  EXPECT_LE(reserve, logits - kWorkspaceBesideReserve + 8 * kMiB);
  EXPECT_EQ(PlanRegion(large, {.memory_budget_bytes = 8 * kGiB, .engine_threads = 2})
                ->engine_reserve_bytes,
            reserve);
}

TEST_F(BudgetTest, TheDefaultReserveHoldsOneTrainedContext) {
  const auto& hp = index().manifest.hyper_parameters();
  const auto plan = PlanRegion(index(), {.memory_budget_bytes = kGiB});
  ASSERT_TRUE(plan.ok());
  // keys and values, 2 bytes each: 2 layers, 2 heads of 16, 128 positions.
  EXPECT_EQ(plan->engine_reserve_bytes, 2u * 2 * 2 * 2 * 16 * 128);
  EXPECT_EQ(plan->engine_reserve_bytes, KvCacheBytes(hp, 128));
  EXPECT_EQ(PlanRegion(index(), {.memory_budget_bytes = kGiB, .engine_reserve_bytes = 12345})
                ->engine_reserve_bytes,
            12345u);
}

}  // namespace tidegate::budget_test
