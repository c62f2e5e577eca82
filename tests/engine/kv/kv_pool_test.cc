#include "engine/kv/kv_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>

namespace tidegate::kv_pool_test {

using ::testing::ElementsAre;

ModelConfig Config() {
  ModelConfig config;
  config.layer_count = 3;
  config.kv_heads = 2;
  config.head_size = 48;
  return config;
}

uint64_t Budget(uint64_t pages) { return pages * KvPool::PageBytes(Config(), KvType::kF16); }

// Holds pages that it drops in the order given, as the prefix index does.
class FakeCache : public KvPool::Cache {
 public:
  explicit FakeCache(KvPool* pool) : pool_(pool) { pool->set_cache(this); }
  ~FakeCache() override {
    pool_->set_cache(nullptr);
    for (const PageId page : pages) LetGo(page);
  }
  void Keep(PageId page) {
    pages.push_back(page);
    pool_->SetCached(page, true);
  }
  bool DropOne() override {
    for (auto page = pages.begin(); page != pages.end(); ++page) {
      if (pool_->holders(*page) > 1) continue;
      dropped.push_back(*page);
      LetGo(*page);
      pages.erase(page);
      return true;
    }
    return false;
  }
  std::vector<PageId> pages, dropped;

 private:
  void LetGo(PageId page) {
    pool_->SetCached(page, false);
    pool_->Drop(page);
  }
  KvPool* const pool_;
};

TEST(KvPoolTest, BytesOfTokensAndPages) {
  EXPECT_EQ(KvPool::BytesPerToken(Config(), KvType::kF16), 3u * 2 * 2 * 48 * 2);
  EXPECT_EQ(KvPool::BytesPerToken(Config(), KvType::kF32), 3u * 2 * 2 * 48 * 4);
  EXPECT_EQ(KvPool::PageBytes(Config(), KvType::kF16), 32u * 3 * 2 * 2 * 48 * 2);
  ModelConfig eight_billion;
  eight_billion.layer_count = 32;
  eight_billion.kv_heads = 8;
  eight_billion.head_size = 128;
  EXPECT_EQ(KvPool::BytesPerToken(eight_billion, KvType::kF32), 262144u);
  EXPECT_EQ(KvPool::BytesPerToken(eight_billion, KvType::kF16), 131072u);
  EXPECT_EQ(KvPool::BytesPerToken(eight_billion, KvType::kQ8), 69632u);
  EXPECT_EQ(KvPool::PageBytes(eight_billion, KvType::kQ8), 32u * 69632);
  EXPECT_EQ(KvPool::PagesFor(0), 0u);
  EXPECT_EQ(KvPool::PagesFor(1), 1u);
  EXPECT_EQ(KvPool::PagesFor(32), 1u);
  EXPECT_EQ(KvPool::PagesFor(33), 2u);
  EXPECT_EQ(KvPool::ForTokens(Config(), KvType::kF16, 33).capacity(), 2u);
}

TEST(KvPoolTest, RowsOfAPageLieApart) {
  KvPool pool(Config(), KvType::kF16, Budget(1));
  std::set<size_t> begins;
  for (uint32_t layer = 0; layer < 3; ++layer) {
    for (uint32_t head = 0; head < 2; ++head) {
      begins.insert(pool.KeysAt(layer, head));
      begins.insert(pool.ValuesAt(layer, head));
    }
  }
  ASSERT_EQ(begins.size(), 12u);
  size_t expected = 0;
  for (const size_t begin : begins) {
    EXPECT_EQ(begin, expected);
    expected += kKvPageTokens * 48 * 2;
  }
  EXPECT_LE(expected, pool.page_bytes());
}

TEST(KvPoolTest, GivesAsManyPagesAsTheBudgetHolds) {
  KvPool pool(Config(), KvType::kF16, Budget(3) + 100);
  EXPECT_EQ(pool.capacity(), 3u);
  std::set<PageId> pages;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(pool.available(), 3u - i);
    const auto page = pool.Take();
    ASSERT_TRUE(page.has_value());
    std::memset(pool.data(*page), i, pool.page_bytes());
    pages.insert(*page);
  }
  EXPECT_EQ(pages.size(), 3u);
  EXPECT_FALSE(pool.Take().has_value());
  EXPECT_EQ(pool.available(), 0u);
  pool.Drop(*pages.begin());
  EXPECT_EQ(pool.used(), 2u);
  EXPECT_EQ(pool.Take(), *pages.begin());  // Its memory is used again.
  for (const PageId page : pages) pool.Drop(page);
  EXPECT_EQ(pool.used(), 0u);
}

TEST(KvPoolTest, APageLivesAsLongAsItHasHolders) {
  KvPool pool(Config(), KvType::kF16, Budget(1));
  const PageId page = *pool.Take();
  pool.Share(page);
  EXPECT_EQ(pool.holders(page), 2u);
  pool.Drop(page);
  EXPECT_EQ(pool.holders(page), 1u);
  EXPECT_FALSE(pool.Take().has_value());
  pool.Drop(page);
  EXPECT_TRUE(pool.Take().has_value());
  pool.Drop(page);
}

TEST(KvPoolTest, PagesThatOnlyTheCacheHoldsGoWhenNoneIsFree) {
  KvPool pool(Config(), KvType::kF16, Budget(3));
  FakeCache cache(&pool);
  for (int i = 0; i < 3; ++i) cache.Keep(*pool.Take());
  const std::vector<PageId> order = cache.pages;
  pool.Share(order[0]);  // A sequence uses it.
  EXPECT_EQ(pool.available(), 2u);
  const auto first = pool.Take(), second = pool.Take();
  EXPECT_THAT(cache.dropped, ElementsAre(order[1], order[2]));
  EXPECT_EQ(first, order[1]);
  EXPECT_EQ(second, order[2]);
  EXPECT_EQ(pool.available(), 0u);
  EXPECT_FALSE(pool.Take().has_value());
  pool.Drop(order[0]);
  EXPECT_EQ(pool.Take(), order[0]);
  for (const PageId page : order) pool.Drop(page);
}

TEST(KvPoolTest, ASmallerBudgetTakesEffectAsPagesComeFree) {
  KvPool pool(Config(), KvType::kF16, Budget(4));
  FakeCache cache(&pool);
  const PageId a = *pool.Take(), b = *pool.Take();
  for (int i = 0; i < 2; ++i) cache.Keep(*pool.Take());
  pool.SetBudget(Budget(1));
  EXPECT_EQ(cache.pages.size(), 0u);  // At once.
  EXPECT_EQ(pool.capacity(), 1u);
  EXPECT_EQ(pool.used(), 2u);
  EXPECT_EQ(pool.available(), 0u);
  pool.Drop(a);
  EXPECT_EQ(pool.data(a), nullptr);  // Back to the system.
  EXPECT_FALSE(pool.Take().has_value());
  pool.Drop(b);
  EXPECT_NE(pool.data(b), nullptr);
  EXPECT_EQ(pool.Take(), b);
  pool.SetBudget(Budget(2));
  const auto more = pool.Take();
  ASSERT_TRUE(more.has_value());
  std::memset(pool.data(*more), 1, pool.page_bytes());
  pool.Drop(*more);
  pool.SetBudget(0);
  EXPECT_EQ(pool.data(*more), nullptr);
  pool.Drop(b);
  EXPECT_EQ(pool.data(b), nullptr);
  EXPECT_FALSE(pool.Take().has_value());
}

}  // namespace tidegate::kv_pool_test
