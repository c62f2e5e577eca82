#include "simulator/memory_model.h"

#include <gtest/gtest.h>

namespace tidegate::memory_model_test {

// Dense streaming with DRAM for half of weights and key/value cache, 2,048 tokens of cache, 60 GB/s
// and 1 GB/s: derived from the published dimensions, independently of this code.
TEST(MemoryModelTest, DenseFiguresFollowFromThePublishedDimensions) {
  const std::pair<std::string_view, double> expected[] = {
      {"phi-3-medium", 0.266}, {"phi-3-mini", 0.724}, {"llama-3-8b", 0.459}, {"mistral-7b", 0.506}};
  ASSERT_EQ(PublishedModels().size(), std::size(expected));
  for (const auto& [name, tokens_per_second] : expected) {
    bool found = false;
    for (const ModelDimensions& dimensions : PublishedModels()) {
      if (dimensions.name != name) continue;
      found = true;
      const ModelBytes model = BytesOf(dimensions, 4, 2048);
      EXPECT_NEAR(1 / DenseSeconds(model, model.total() / 2, {}), tokens_per_second,
                  0.01 * tokens_per_second)
          << name;
    }
    EXPECT_TRUE(found) << name;
  }
}

constexpr ModelBytes kSmall = {.shape = {.layer_count = 2, .unit_count = {10, 20}},
                               .unit_bytes = {100, 50},
                               .static_bytes = 1000,
                               .kv_bytes = 500};

TEST(MemoryModelTest, StaticPartsGoIntoDramFirst) {
  EXPECT_EQ(kSmall.mlp(), 2 * (10 * 100 + 20 * 50));
  EXPECT_EQ(kSmall.total(), 5500u);
  EXPECT_EQ(CachedShare(kSmall, 1500), 0);
  EXPECT_EQ(CachedShare(kSmall, 3500), 0.5);
  EXPECT_EQ(CachedShare(kSmall, 99999), 1);
  const DeviceSpeeds device = {.dram_bytes_per_second = 1000, .flash_bytes_per_second = 10};
  EXPECT_DOUBLE_EQ(StaticSeconds(kSmall, 1500, device), 1.5);
  EXPECT_DOUBLE_EQ(StaticSeconds(kSmall, 500, device), 0.5 + 100);
  EXPECT_DOUBLE_EQ(DenseSeconds(kSmall, 5500, device), 5.5);
  EXPECT_DOUBLE_EQ(DenseSeconds(kSmall, 3500, device), 1.5 + 2 + 200);
}

TEST(MemoryModelTest, OverlapTakesTheLargerAndReadsHaveAPrice) {
  DeviceSpeeds device = {.dram_bytes_per_second = 1000, .flash_bytes_per_second = 100};
  EXPECT_DOUBLE_EQ(UnitSeconds(100, 20, 3, device), 2 + 3);
  device.overlapped = true;
  EXPECT_DOUBLE_EQ(UnitSeconds(100, 20, 3, device), 3);
  EXPECT_DOUBLE_EQ(UnitSeconds(100, 20, 1, device), 2);
  device.overlapped = false;
  device.flash_latency_seconds = 0.25;
  EXPECT_DOUBLE_EQ(UnitSeconds(100, 20, 3, device), 2 + 3.25);
  EXPECT_DOUBLE_EQ(UnitSeconds(100, 20, 0, device), 2);  // nothing is read
  device.flash_reads_per_second = 0.5;                   // slower than the bytes
  EXPECT_DOUBLE_EQ(UnitSeconds(100, 20, 3, device), 2 + 0.25 + 6);
}

}  // namespace tidegate::memory_model_test
