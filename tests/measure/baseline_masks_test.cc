#include "measure/baseline_masks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace tidegate::baseline_masks_test {

ModelConfig Config(uint32_t hidden_units, uint32_t layers = 1) {
  ModelConfig config;
  config.layer_count = layers;
  config.intermediate_size = hidden_units;
  config.activation = Activation::kSilu;
  return config;
}

float Silu(float x) { return x / (1 + std::exp(-x)); }

// Which of `up` a method keeps of one token.
std::vector<bool> Kept(BaselineMethod method, double density, const std::vector<float>& gate,
                       std::vector<float> up) {
  BaselineMask mask(method, density, Config(static_cast<uint32_t>(gate.size())));
  mask.Apply(0, gate, up);
  std::vector<bool> kept;
  for (const float value : up) kept.push_back(value != 0);
  return kept;
}

TEST(BaselineMaskTest, NamesAndReachableDensities) {
  ASSERT_NE(FindBaselineMethod("glu"), nullptr);
  EXPECT_EQ(*FindBaselineMethod("cats"), BaselineMethod::kCats);
  EXPECT_EQ(FindBaselineMethod("dip"), nullptr);
  EXPECT_TRUE(BaselineMask::CheckDensity(BaselineMethod::kGlu, 0.67).ok());
  EXPECT_FALSE(BaselineMask::CheckDensity(BaselineMethod::kGlu, 0.66).ok());
  EXPECT_TRUE(BaselineMask::CheckDensity(BaselineMethod::kGate, 0.34).ok());
  for (const double density : {0.33, 1.01, std::nan("")}) {
    EXPECT_FALSE(BaselineMask::CheckDensity(BaselineMethod::kUp, density).ok()) << density;
  }
}

TEST(BaselineMaskTest, EachMethodRanksByItsOwnScore) {
  // |act(g)|: 0.27, 2.86, 0.05, 3.93; |u|: 9, 0.1, 30, 1; their products: 2.4, 0.29, 1.5, 3.9.
  const std::vector<float> gate = {-1, 3, 0.1f, 4}, up = {9, 0.1f, -30, 1};
  using Mask = std::vector<bool>;
  EXPECT_EQ(Kept(BaselineMethod::kGlu, 5.0 / 6, gate, up), (Mask{true, false, false, true}));
  EXPECT_EQ(Kept(BaselineMethod::kGate, 2.0 / 3, gate, up), (Mask{false, true, false, true}));
  EXPECT_EQ(Kept(BaselineMethod::kUp, 2.0 / 3, gate, up), (Mask{true, false, true, false}));
  EXPECT_EQ(Kept(BaselineMethod::kUp, 1, gate, up), (Mask{true, true, true, true}));
}

TEST(BaselineMaskTest, TiesGoToTheFirst) {
  EXPECT_EQ(Kept(BaselineMethod::kUp, 2.0 / 3, {1, 1, 1, 1}, {5, 5, 5, 5}),
            (std::vector<bool>{true, true, false, false}));
}

TEST(BaselineMaskTest, CatsKeepsTheWantedShareOnAverage) {
  constexpr uint32_t kUnits = 100;
  BaselineMask mask(BaselineMethod::kCats, 0.5,
                    Config(kUnits, 2));  // a quarter of the hidden units
  ASSERT_TRUE(mask.needs_thresholds());
  std::vector<float> gate(kUnits);
  for (uint32_t i = 0; i < kUnits; ++i) gate[i] = 0.1f * static_cast<float>(i + 1);
  std::vector<float> other = gate;
  for (float& g : other) g *= 3;  // of the second layer
  mask.Observe(0, gate);
  mask.Observe(1, other);
  mask.SetThresholds();
  ASSERT_FALSE(mask.needs_thresholds());
  for (uint32_t layer = 0; layer < 2; ++layer) {
    std::vector<float> up(kUnits, 1);
    mask.Apply(layer, layer == 0 ? gate : other, up);
    EXPECT_NEAR(std::accumulate(up.begin(), up.end(), 0.0f), 25, 1);
    EXPECT_EQ(up.back(), 1);
    EXPECT_EQ(up.front(), 0);
  }
  EXPECT_NEAR(mask.density(), 0.5, 0.01);
  // A token with nothing large keeps nothing, one with everything large keeps all.
  std::vector<float> up(kUnits, 1), small(kUnits, 0.01f), large(kUnits, 100);
  mask.Apply(0, large, up);
  EXPECT_EQ(std::accumulate(up.begin(), up.end(), 0.0f), kUnits);
  mask.Apply(0, small, up);
  EXPECT_EQ(std::accumulate(up.begin(), up.end(), 0.0f), 0);
  EXPECT_GT(Silu(100), 99);
}

TEST(BaselineMaskTest, CountsWhatItKeptOfSeveralTokens) {
  BaselineMask mask(BaselineMethod::kGate, 2.0 / 3, Config(4));
  std::vector<float> gate = {1, 2, 3, 4, 4, 3, 2, 1}, up(8, 1);
  mask.Apply(0, gate, up);
  EXPECT_EQ(up, (std::vector<float>{0, 0, 1, 1, 1, 1, 0, 0}));
  EXPECT_EQ(mask.kept_per_token(), 2);
  EXPECT_NEAR(mask.density(), 2.0 / 3, 1e-12);
}

}  // namespace tidegate::baseline_masks_test
