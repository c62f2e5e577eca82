#include "engine/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/units.h"
#include "proto/store/v1/defaults.h"

namespace tidegate::memory_plan_test {

using ::testing::HasSubstr;

// An 8B shape with 4-bit units: a page of the KV cache is 4 MiB.
constexpr uint64_t kPageBytes8b = 4 * kMiB;
constexpr uint32_t kContext = 4096;
constexpr uint64_t kContextBytes = kContext / kKvPageTokens * kPageBytes8b;

const store::v1::Manifest& Manifest8b() {
  static const auto& manifest = *[] {
    auto* made = new store::v1::Manifest;
    auto& hp = *made->mutable_hyper_parameters();
    hp.set_layer_count(32);
    hp.set_hidden_size(4096);
    hp.set_intermediate_size(14336);
    hp.set_query_heads(32);
    hp.set_kv_heads(8);
    hp.set_head_size(128);
    hp.set_embedding_rows(128256);
    hp.set_rope_dims(128);
    hp.set_context_length(8192);
    return made;
  }();
  return manifest;
}

PackGeometry Geometry8b() {
  PackGeometry geometry = {.layer_count = 32, .kinds = {}};
  geometry.kinds[0] = {.unit_count = 4096,
                       .unit_bytes = 16128,
                       .units_per_block = 1,
                       .block_bytes = 16384,
                       .block_count = 4096,
                       .columns_per_unit = 2,
                       .column_elements = 14336};
  geometry.kinds[1] = {.unit_count = 14336,
                       .unit_bytes = 2304,
                       .units_per_block = 8,
                       .block_bytes = 18432,
                       .block_count = 1792,
                       .columns_per_unit = 1,
                       .column_elements = 4096};
  return geometry;
}

MemoryRequest Request(uint64_t reserve_bytes) {
  return {.reserve_bytes = reserve_bytes,
          .page_bytes = kPageBytes8b,
          .threads = 2,
          .context_tokens = kContext};
}

absl::StatusOr<MemoryPlan> Plan(const MemoryRequest& request) {
  return PlanMemory(Manifest8b(), Geometry8b(), request);
}

// Everything that a plan takes out of the reserve.
uint64_t Taken(const MemoryPlan& plan, const MemoryRequest& request) {
  return plan.kv_tokens / kKvPageTokens * request.page_bytes + request.adapter_bytes +
         WorkspaceFromReserve(plan.workspace.bytes());
}

TEST(MemoryPlanTest, TheWorkspaceOfAnEightBillionShapeIsAboutWhatTheManualSays) {
  const StepWorkspace workspace =
      WorkspaceOf(Manifest8b(), Geometry8b(),
                  {.prompt_rows = 256, .decode_rows = 64, .threads = 2, .context_tokens = 4096});
  std::printf("rows %s, products %s, attention %s, lanes %s, units %s, logits %s: %s\n",
              FormatBytes(workspace.rows).c_str(), FormatBytes(workspace.products).c_str(),
              FormatBytes(workspace.attention).c_str(), FormatBytes(workspace.lanes).c_str(),
              FormatBytes(workspace.units).c_str(), FormatBytes(workspace.logits).c_str(),
              FormatBytes(workspace.bytes()).c_str());
  EXPECT_GT(workspace.bytes(), 110 * kMiB);
  EXPECT_LT(workspace.bytes(), 140 * kMiB);
}

TEST(MemoryPlanTest, NothingIsTakenBeyondTheReserve) {
  for (uint64_t reserve = 8 * kMiB; reserve <= kGiB; reserve = reserve * 5 / 4) {
    for (const uint64_t adapters : {uint64_t{0}, 3 * kMiB}) {
      MemoryRequest request = Request(reserve);
      request.adapter_bytes = adapters;
      const auto plan = Plan(request);
      if (!plan.ok()) {
        EXPECT_LT(reserve, 16 * kMiB) << plan.status();
        continue;
      }
      EXPECT_LE(Taken(*plan, request), reserve);
      EXPECT_EQ(plan->beyond_bytes, 0u);
      EXPECT_GE(plan->kv_tokens, kKvPageTokens);
      EXPECT_GE(plan->sequences_max, 1u);
      EXPECT_GE(plan->prompt_rows_max, 16u);
    }
  }
}

TEST(MemoryPlanTest, AContextComesBeforeManyStreamsAndLongChunks) {
  const auto large = Plan(Request(kContextBytes + 200 * kMiB));
  ASSERT_TRUE(large.ok()) << large.status();
  EXPECT_EQ(large->sequences_max, 64u);
  EXPECT_EQ(large->prompt_rows_max, kDefaultPromptRows);
  const auto middle = Plan(Request(kContextBytes + 100 * kMiB));
  ASSERT_TRUE(middle.ok()) << middle.status();
  EXPECT_GE(middle->kv_tokens, kContext);
  EXPECT_LT(middle->sequences_max, 64u);
  EXPECT_EQ(middle->prompt_rows_max, kDefaultPromptRows);
  const auto small = Plan(Request(kContextBytes + 40 * kMiB));
  ASSERT_TRUE(small.ok()) << small.status();
  EXPECT_GE(small->kv_tokens, kContext);
  EXPECT_LT(small->prompt_rows_max, kDefaultPromptRows);
}

TEST(MemoryPlanTest, WhatIsGivenStaysAsItIs) {
  MemoryRequest request = Request(kContextBytes + 40 * kMiB);
  request.max_running = 48;
  request.prompt_rows = 512;
  const auto plan = Plan(request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->sequences_max, 48u);
  EXPECT_EQ(plan->prompt_rows_max, 512u);
  EXPECT_LT(plan->kv_tokens, kContext) << "what the workspace leaves";
  EXPECT_LE(Taken(*plan, request), request.reserve_bytes);
}

TEST(MemoryPlanTest, RefusesAReserveWithoutRoomAndSaysWhatWouldDo) {
  MemoryRequest request = Request(64 * kMiB);
  request.max_running = 64;
  request.prompt_rows = 512;
  const absl::Status refused = Plan(request).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  const std::string message(refused.message());
  EXPECT_THAT(message, HasSubstr(FormatBytes(64 * kMiB)));
  EXPECT_THAT(message, HasSubstr("64 streams and 512 prompt tokens"));
  EXPECT_THAT(message, HasSubstr("--engine-reserve"));
  EXPECT_THAT(message, HasSubstr("--max-running"));
}

TEST(MemoryPlanTest, GivenKvTokensMayLieBeyondTheReserveAndThatIsSaid) {
  MemoryRequest request = Request(kGiB);
  request.kv_tokens = 4096;
  EXPECT_EQ(Plan(request)->beyond_bytes, 0u);
  request.kv_tokens = 16384;
  const auto plan = Plan(request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->kv_tokens, 16384u);
  EXPECT_EQ(plan->beyond_bytes, Taken(*plan, request) - kGiB);
}

TEST(MemoryPlanTest, PreemptedSequencesAreComputedAgainInSmallPieces) {
  EXPECT_EQ(DecodeRowsMax(1), 1u) << "nobody preempts it";
  EXPECT_EQ(DecodeRowsMax(2), 16u);
  EXPECT_EQ(DecodeRowsMax(64), 64u);
  EXPECT_EQ(SequencesCarried(0, 2), 1u);
  EXPECT_EQ(SequencesCarried(100, 2), 50u);
  EXPECT_EQ(SequencesCarried(1000, 2), 64u);
}

}  // namespace tidegate::memory_plan_test
