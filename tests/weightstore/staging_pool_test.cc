#include "weightstore/staging_pool.h"

#include <gtest/gtest.h>

#include <set>

namespace tidegate::staging_pool_test {

constexpr uint32_t kBlock = 32 << 10;

// Takes chunks for `lease` until there are none.
std::vector<uint32_t> TakeAll(StagingPool& pool, uint32_t lease) {
  std::vector<uint32_t> chunks;
  while (const std::optional<uint32_t> chunk = pool.Take(lease)) chunks.push_back(*chunk);
  return chunks;
}

TEST(StagingPool, ChunksAreWholePagesOfAtLeastOneBlockAndAtMostOneMegabyte) {
  EXPECT_EQ(StagingPool(64 << 20, kBlock).chunk_bytes(), 1u << 20);
  EXPECT_EQ(StagingPool(4 << 20, kBlock).chunk_bytes(), 256u << 10);
  EXPECT_EQ(StagingPool(4 * kBlock, kBlock).chunk_bytes(), kBlock);
  EXPECT_EQ(StagingPool((1 << 20) + 4096 * 7, kBlock).chunk_bytes() % 4096, 0u);
  EXPECT_EQ(StagingPool(32 << 20, 8 << 20).chunk_bytes(), 8u << 20);
}

TEST(StagingPool, EveryChunkIsGivenOnceAndLiesInTheStaging) {
  StagingPool pool(1 << 20, kBlock);
  std::set<uint32_t> seen;
  for (uint32_t lease = 0; lease < kLeasesPerSession; ++lease) {
    for (const uint32_t chunk : TakeAll(pool, lease)) {
      EXPECT_TRUE(seen.insert(chunk).second);
      EXPECT_LE(pool.Offset(chunk) + pool.chunk_bytes(), 1u << 20);
    }
  }
  EXPECT_EQ(seen.size(), (1u << 20) / pool.chunk_bytes());
}

TEST(StagingPool, OneLeaseMayHaveAllButOneChunkOfEachOther) {
  StagingPool pool(1 << 20, kBlock);
  const size_t all = (1u << 20) / pool.chunk_bytes();
  EXPECT_EQ(TakeAll(pool, 2).size(), all - (kLeasesPerSession - 1));
  for (const uint32_t other : {0u, 1u, 3u}) {
    EXPECT_TRUE(pool.Take(other).has_value());
    EXPECT_FALSE(pool.Take(other).has_value());
  }
}

TEST(StagingPool, HalfOfTheChunksAreKeptFromTheDriveButForFirstOnes) {
  StagingPool pool(1 << 20, kBlock);
  const size_t all = (1u << 20) / pool.chunk_bytes();
  std::vector<uint32_t> out;
  while (const std::optional<uint32_t> chunk = pool.Take(0)) {
    pool.ReadBegan(*chunk);
    out.push_back(*chunk);
  }
  EXPECT_EQ(out.size(), all / 2);
  EXPECT_TRUE(pool.Take(1).has_value());
  EXPECT_FALSE(pool.Take(1).has_value());
  pool.ReadEnded(out[0]);
  EXPECT_TRUE(pool.Take(0).has_value()) << "there is room on the drive again";
}

TEST(StagingPool, WithOneChunkForEachNobodyGetsTwo) {
  StagingPool pool(kLeasesPerSession * kBlock, kBlock);
  for (uint32_t lease = 0; lease < kLeasesPerSession; ++lease) {
    EXPECT_EQ(TakeAll(pool, lease).size(), 1u);
  }
}

TEST(StagingPool, AChunkGivenBackIsFreeOnceItsReadsHaveEnded) {
  StagingPool pool(kLeasesPerSession * kBlock, kBlock);
  const uint32_t chunk = *pool.Take(0);
  pool.ReadBegan(chunk);
  pool.ReadBegan(chunk);
  for (uint32_t lease = 1; lease < kLeasesPerSession; ++lease) ASSERT_TRUE(pool.Take(lease));
  pool.GiveBack(0, chunk);
  EXPECT_FALSE(pool.Take(0).has_value());
  pool.ReadEnded(chunk);
  EXPECT_FALSE(pool.Take(0).has_value());
  EXPECT_FALSE(pool.idle());
  pool.ReadEnded(chunk);
  EXPECT_TRUE(pool.idle());
  EXPECT_EQ(pool.Take(0), chunk);
}

}  // namespace tidegate::staging_pool_test
