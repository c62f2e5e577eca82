// The arithmetic of a plan, with sizes of a real pack and injected speeds.
#include "measure/serving_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/unique_fd.h"
#include "packer/pack_writer.h"
#include "packer/source_model.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::serving_plan_test {

class ServingPlanTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto pack = PlannedPack(DemoModelPath(), UnitEncoding::kQ8);
    ASSERT_TRUE(pack.ok()) << pack.status();
    pack_ = *pack;
  }
  BudgetSplit Split(double share) {
    BudgetRequest request;
    const auto whole = WholeBudget(pack_, request);
    EXPECT_TRUE(whole.ok()) << whole.status();
    request.memory_budget_bytes = static_cast<uint64_t>(share * static_cast<double>(*whole));
    const auto split = SplitBudget(pack_, request);
    EXPECT_TRUE(split.ok()) << split.status();
    return split.value_or(BudgetSplit());
  }

  PackIndex pack_;
};

MachineSpeeds SpeedsOf(double weights, double flash) {
  MachineSpeeds speeds;
  speeds.unit_rate[0] = speeds.unit_rate[1] = speeds.static_rate = weights;
  speeds.block_rate[0] = speeds.block_rate[1] = speeds.stream_rate = flash;
  return speeds;
}

TEST_F(ServingPlanTest, APackIsPlannedAsItIsWritten) {
  TempDir dir;
  const auto source = SourceModel::Open(DemoModelPath());
  ASSERT_TRUE(source.ok()) << source.status();
  ASSERT_TRUE(WritePack(*source, dir.File("m.tgpack"), PackOptions(), nullptr).ok());
  const auto written = PlannedPack(dir.File("m.tgpack"), UnitEncoding::kQ8);
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_EQ(written->geometry.blocks_bytes(), pack_.geometry.blocks_bytes());
  EXPECT_EQ(written->header.static_bytes, pack_.header.static_bytes);
  EXPECT_EQ(LeastStaticBytes(*written), LeastStaticBytes(pack_));
  EXPECT_EQ(MultipliedBytes(written->manifest), MultipliedBytes(pack_.manifest));
}

TEST_F(ServingPlanTest, TheSplitAddsUp) {
  for (const double share : {0.7, 0.85, 1.0}) {
    const BudgetSplit split = Split(share);
    EXPECT_EQ(split.static_bytes + split.slot_bytes + split.staging_bytes + split.table_bytes +
                  split.engine_reserve_bytes,
              split.used);
    EXPECT_LE(split.used, split.budget);
    EXPECT_EQ(split.cached[0] == 1 && split.cached[1] == 1, share == 1.0);
  }
  BudgetRequest request;
  request.memory_budget_bytes = 4096;
  EXPECT_TRUE(absl::IsResourceExhausted(SplitBudget(pack_, request).status()));
}

TEST_F(ServingPlanTest, EverythingInMemoryReadsNothing) {
  const BudgetSplit split = Split(1);
  for (const double density : {1.0, 0.5}) {
    const TokenCost cost = CostOfToken(pack_, split, SpeedsOf(1e9, 1e3), density);
    EXPECT_EQ(cost.flash_bytes, 0);
    EXPECT_EQ(cost.io_seconds, 0);
    EXPECT_DOUBLE_EQ(cost.tokens_per_second, 1 / cost.compute_seconds);
  }
}

TEST_F(ServingPlanTest, DenseReadsWhatIsNotCached) {
  const BudgetSplit split = Split(0.7);
  MachineSpeeds speeds = SpeedsOf(1e12, 1e6);
  const TokenCost cost = CostOfToken(pack_, split, speeds, 1);
  const auto missing = static_cast<double>(pack_.geometry.blocks_bytes() - split.slot_bytes);
  EXPECT_NEAR(cost.flash_bytes, missing, 1e-6 * missing);
  EXPECT_NEAR(cost.io_seconds, missing / 1e6, 1e-6 * missing);
  EXPECT_NEAR(cost.tokens_per_second, 1 / cost.io_seconds, 1e-9);
  speeds.read_seconds = 1;  // once for each layer and kind
  EXPECT_NEAR(CostOfToken(pack_, split, speeds, 1).io_seconds,
              cost.io_seconds + 2 * pack_.geometry.layer_count, 1e-6);
}

TEST_F(ServingPlanTest, TheShorterTaskIsHiddenAsFarAsMeasured) {
  const BudgetSplit split = Split(0.7);
  MachineSpeeds speeds = SpeedsOf(1e8, 1e8);
  const TokenCost hidden = CostOfToken(pack_, split, speeds, 1);
  const double longer = std::max(hidden.io_seconds, hidden.compute_seconds);
  EXPECT_DOUBLE_EQ(hidden.tokens_per_second, 1 / longer);
  speeds.overlap = 0;
  const TokenCost added = CostOfToken(pack_, split, speeds, 1);
  EXPECT_DOUBLE_EQ(added.tokens_per_second, 1 / (added.io_seconds + added.compute_seconds));
}

TEST_F(ServingPlanTest, LowerDensityReadsAndComputesLess) {
  const BudgetSplit split = Split(0.7);
  TokenCost last = CostOfToken(pack_, split, SpeedsOf(1e8, 1e8), 1);
  for (const double density : {0.9, 0.75, 0.6, 0.5, 0.3}) {
    const TokenCost cost = CostOfToken(pack_, split, SpeedsOf(1e8, 1e8), density);
    EXPECT_LT(cost.flash_bytes, last.flash_bytes) << density;
    EXPECT_LT(cost.compute_seconds, last.compute_seconds) << density;
    last = cost;
  }
}

// What `tidegate bench` counted with the default gamma and protected share (docs/plan.md): the part
// of a kind's units that a token reads.
TEST(MissedShareTest, AgreesWithWhatBenchCounted) {
  struct Row {
    double cached, kept, density;
    uint32_t units_per_block;
    double counted;
  };
  for (const Row& row : {Row{0.479, 0.799, 0.75, 1, 0.328}, Row{0.479, 0.652, 0.75, 8, 0.444},
                         Row{0.479, 0.574, 0.5, 1, 0.121}, Row{0.479, 0.351, 0.5, 8, 0.225},
                         Row{0.517, 0.799, 0.75, 1, 0.304}, Row{0.517, 0.652, 0.75, 8, 0.396}}) {
    const double share = MissedShare(row.cached, row.kept, row.density, row.units_per_block);
    EXPECT_NEAR(share / row.counted, 1, 0.35) << row.cached << " " << row.kept;
  }
}

TEST(MissedShareTest, StaysWithinBounds) {
  for (const uint32_t units : {1u, 8u}) {
    for (double cached = 0; cached <= 1; cached += 0.125) {
      for (const double density : {0.01, 0.3, 0.5, 0.75, 0.99, 1.0}) {
        const double share = MissedShare(cached, density, density, units);
        EXPECT_GE(share, 0) << cached << " " << density;
        EXPECT_LE(share, density + 1e-9) << cached << " " << density;
        EXPECT_TRUE(cached > 0 || units > 1 || std::abs(share - density) < 1e-9) << density;
      }
      EXPECT_DOUBLE_EQ(MissedShare(cached, 1, 1, units), 1 - cached);
    }
    EXPECT_EQ(MissedShare(1, 0.5, 0.5, units), 0);
  }
}

TEST(MultipliedBytesTest, CountsAnEmbeddingOnlyWhereItIsTheHead) {
  store::v1::Manifest manifest;
  const auto add = [&](const char* name, uint64_t rows, uint64_t bytes) {
    auto* const tensor = manifest.add_static_tensors();
    tensor->set_name(name);
    tensor->set_rows(rows);
    tensor->set_bytes(bytes);
  };
  add("blk.0.attn_q.weight", 8, 100);
  add("blk.0.attn_norm.weight", 1, 10);
  add("token_embd.weight", 16, 1000);
  EXPECT_EQ(MultipliedBytes(manifest), 1100u);
  add("output.weight", 16, 2000);
  EXPECT_EQ(MultipliedBytes(manifest), 2100u);
}

}  // namespace tidegate::serving_plan_test
