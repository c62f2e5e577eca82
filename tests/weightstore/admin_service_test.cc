#include "weightstore/admin_service.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tidegate {
namespace {

// Over a socket: tests/cli/stats_test.cc.
TEST(AdminService, SaysEverything) {
  StoreInfo info;
  info.pack_uuid = "uuid-1";
  info.model_name = "tiny";
  info.flash.backend = "pread";
  info.flash.reason = "because";
  info.memory_budget_bytes = 100;
  info.slots_per_layer[1] = 5;
  info.warm_blocks = 3;
  StoreStats stats;
  stats.hit_units[0] = 7;
  stats.miss_units[1] = 8;
  stats.leases_granted[1] = 9;
  stats.flash_read_bytes[2] = 4096;
  stats.engines_attached = 2;
  stats.read_bytes.Observe(4096);
  stats.read_bytes.Observe(1e9);

  const v1::GetStatsResponse response = ToProto(info, stats);
  EXPECT_EQ(response.info().flash().reason(), "because");
  EXPECT_EQ(response.info().memory().budget_bytes(), 100u);
  EXPECT_EQ(response.info().hidden().slots_per_layer(), 5u);
  EXPECT_EQ(response.info().warm_blocks(), 3u);
  EXPECT_EQ(response.stats().select().hit_units(), 7u);
  EXPECT_EQ(response.stats().stream().miss_units(), 8u);
  EXPECT_EQ(response.stats().stream().granted(), 9u);
  EXPECT_EQ(response.stats().flash().static_read_bytes(), 4096u);
  EXPECT_EQ(response.stats().engines().attached(), 2u);
  const auto& buckets = response.stats().flash().read_bytes();
  ASSERT_EQ(buckets.size(), static_cast<int>(kReadBytesBounds.size()) + 1);
  EXPECT_EQ(buckets[0].upper_bound(), 4096);
  EXPECT_EQ(buckets[0].count(), 1u);
  EXPECT_TRUE(std::isinf(buckets[buckets.size() - 1].upper_bound()));
  EXPECT_EQ(buckets[buckets.size() - 1].count(), 1u);
}

}  // namespace
}  // namespace tidegate
