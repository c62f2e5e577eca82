#include "packer/unit_placement.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "base/unique_fd.h"
#include "proto/store/v1/mask_trace.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::unit_placement_test {

using ::testing::HasSubstr;

constexpr uint32_t kInputs = 64, kHidden = 96;  // of the test model

class UnitPlacementTest : public ::testing::Test {
 protected:
  void Plan(const TestModel& model) {
    LlamaGguf(model).WriteTo(dir_.File("m.gguf"));
    source_.emplace(*SourceModel::Open(dir_.File("m.gguf")));
    auto plan = PlanPack(*source_, {});
    ASSERT_TRUE(plan.ok()) << plan.status();
    plan_ = *std::move(plan);
  }
  // A recording in which the masks of layer 0 select these units, a token each, and layer 1's none.
  void Record(const std::vector<std::vector<uint32_t>>& inputs,
              const std::vector<std::vector<uint32_t>>& hidden) {
    const auto fd = UniqueFd::Open(dir_.File("trace"), O_RDWR | O_CREAT, 0600);
    ASSERT_TRUE(fd.ok()) << fd.status();
    MaskTraceWriter writer(fd->get(), ShapeOf(plan_.geometry));
    for (size_t t = 0; t < inputs.size(); ++t) {
      writer.Add(UnitKind::kInput, inputs[t]);
      writer.Add(UnitKind::kHidden, hidden[t]);
      writer.Add(UnitKind::kInput, {});
      writer.Add(UnitKind::kHidden, {});
    }
    ASSERT_TRUE(writer.Finish().ok());
  }
  absl::Status Place() { return PlaceUnits(dir_.File("trace"), plan_); }
  const auto& Inputs(int layer) const { return plan_.manifest.layers(layer).input().positions(); }
  const auto& Hidden(int layer) const { return plan_.manifest.layers(layer).hidden().positions(); }

  TempDir dir_;
  std::optional<SourceModel> source_;
  PackPlan plan_;
};

TEST_F(UnitPlacementTest, WithoutATraceUnitsKeepTheModelsOrder) {
  Plan({});
  ASSERT_TRUE(PlaceUnits("", plan_).ok());
  EXPECT_TRUE(Inputs(0).empty());
}

TEST_F(UnitPlacementTest, TheMostUsedComesFirstAndEqualsKeepTheirOrder) {
  Plan({});
  Record({{5, 63}, {9, 63}}, {{}, {95}});
  ASSERT_TRUE(Place().ok());
  ASSERT_EQ(Inputs(0).size(), static_cast<int>(kInputs));
  EXPECT_EQ(Inputs(0)[63], 0u);   // twice
  EXPECT_EQ(Inputs(0)[5], 1u);    // once
  EXPECT_EQ(Inputs(0)[9], 2u);    // once, and behind 5
  EXPECT_EQ(Inputs(0)[0], 3u);    // never, the first of those
  EXPECT_EQ(Inputs(0)[62], 63u);  // never, the last
  EXPECT_EQ(Hidden(0)[95], 0u);
  EXPECT_EQ(Hidden(0)[94], 95u);
  EXPECT_EQ(Hidden(1)[7], 7u);  // a layer that selected nothing
}

TEST_F(UnitPlacementTest, ExpertsStayApart) {
  Plan({.experts = 4, .experts_used = 2});
  const uint32_t third = 2 * kInputs;
  Record({{third + 9}}, {{3 * kHidden + 1}});
  ASSERT_TRUE(Place().ok());
  EXPECT_EQ(Inputs(0)[static_cast<int>(third) + 9], third) << "the first of its own expert";
  EXPECT_EQ(Inputs(0)[0], 0u);
  EXPECT_EQ(Inputs(0)[static_cast<int>(third)], third + 1);
  EXPECT_EQ(Hidden(0)[3 * kHidden + 1], 3 * kHidden);
}

TEST_F(UnitPlacementTest, ATraceOfAnotherModelIsRefused) {
  Plan({.experts = 4, .experts_used = 2});
  Record({{1}}, {{1}});
  Plan({});
  EXPECT_THAT(std::string(Place().message()), HasSubstr("trace"));
}

}  // namespace tidegate::unit_placement_test
