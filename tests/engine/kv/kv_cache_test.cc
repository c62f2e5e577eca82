#include "engine/kv/kv_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace tidegate::kv_cache_test {

using ::testing::HasSubstr;

constexpr uint32_t kLayers = 3, kHeads = 2, kHeadSize = 32;

ModelConfig Config() {
  ModelConfig config;
  config.layer_count = kLayers;
  config.kv_heads = kHeads;
  config.head_size = kHeadSize;
  return config;
}

KvPool PoolOf(uint32_t pages, KvType type = KvType::kF16) {
  return KvPool::ForTokens(Config(), type, uint64_t{pages} * kKvPageTokens);
}

// Rows that are told apart by `text`, layer, position, head and element, and exact in halves.
float ValueOf(uint32_t text, uint32_t layer, uint32_t position, uint32_t element) {
  return static_cast<float>((text * 7 + layer * 3 + position) % 31 * 64 + element);
}

void Append(KvCache& kv, uint32_t text, uint32_t rows) {
  ASSERT_TRUE(kv.Grow(rows).ok());
  std::vector<float> key(kHeads * kHeadSize), value(key.size());
  for (uint32_t position = kv.size(); position < kv.size() + rows; ++position) {
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      for (uint32_t i = 0; i < key.size(); ++i) {
        key[i] = ValueOf(text, layer, position, i);
        value[i] = -key[i];
      }
      ASSERT_TRUE(
          kv.Store(BestKernels(Precision::kExact), layer, position, key.data(), value.data()));
    }
  }
  kv.set_size(kv.size() + rows);
}

float Element(const KvView& view, size_t at, uint32_t position, uint32_t i) {
  const std::byte* row = view.pages[position / view.page_tokens] + at +
                         position % view.page_tokens * KvRowBytes(view.type, kHeadSize);
  float values[kHeadSize];
  DecodeGgmlRow(KvRowType(view.type), row, kHeadSize, values);
  return values[i];
}

// Positions [first, end) hold the rows of `text`.
void ExpectRows(const KvCache& kv, uint32_t text, uint32_t first, uint32_t end) {
  ASSERT_LE(end, kv.size());
  for (uint32_t layer = 0; layer < kLayers; ++layer) {
    for (uint32_t head = 0; head < kHeads; ++head) {
      const KvView view = kv.View(layer, head);
      // Of 8 bits, half a step of the largest number, less than rows differ by.
      const float limit = view.type == KvType::kQ8 ? 8.2f : 0;
      for (uint32_t position = first; position < end; ++position) {
        for (uint32_t i = 0; i < kHeadSize; ++i) {
          const float expected = ValueOf(text, layer, position, head * kHeadSize + i);
          ASSERT_NEAR(Element(view, view.keys, position, i), expected, limit) << position;
          ASSERT_NEAR(Element(view, view.values, position, i), -expected, limit) << position;
        }
      }
    }
  }
}

TEST(KvCacheTest, KeepsEveryRowApart) {
  for (const KvType type : {KvType::kF16, KvType::kF32, KvType::kQ8}) {
    KvPool pool = PoolOf(4, type);
    KvCache kv(&pool, 1000);
    EXPECT_EQ(kv.context_tokens(), 1000u);
    Append(kv, 0, 5);
    Append(kv, 0, 60);
    Append(kv, 0, 1);
    EXPECT_EQ(kv.size(), 66u);
    EXPECT_EQ(kv.pages().size(), 3u);
    ExpectRows(kv, 0, 0, 66);
  }
}

TEST(KvCacheTest, TakesPagesAsItGrowsAndGivesThemBack) {
  KvPool pool = PoolOf(3);
  {
    KvCache kv(&pool, 96);
    EXPECT_EQ(pool.used(), 0u);
    ASSERT_TRUE(kv.Grow(32).ok());
    EXPECT_EQ(pool.used(), 1u);
    ASSERT_TRUE(kv.Grow(1).ok());  // Nothing was stored: there is room already.
    EXPECT_EQ(pool.used(), 1u);
    Append(kv, 0, 33);
    EXPECT_EQ(pool.used(), 2u);
    const absl::Status full = kv.Grow(64);
    EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(full.message()), HasSubstr("all of its 3 pages of 32 tokens"));
    EXPECT_EQ(kv.size(), 33u);
    ASSERT_TRUE(kv.Grow(63).ok());
    ExpectRows(kv, 0, 0, 33);
  }
  EXPECT_EQ(pool.used(), 0u);
}

TEST(KvCacheTest, TruncationKeepsWhatLiesBeforeIt) {
  KvPool pool = PoolOf(3);
  KvCache kv(&pool, 96);
  Append(kv, 0, 96);
  kv.Truncate(64);
  EXPECT_EQ(pool.used(), 2u);
  kv.Truncate(40);
  EXPECT_EQ(pool.used(), 2u);
  EXPECT_EQ(kv.size(), 40u);
  Append(kv, 1, 20);
  ExpectRows(kv, 0, 0, 40);
  ExpectRows(kv, 1, 40, 60);
  kv.Truncate(0);
  EXPECT_EQ(pool.used(), 0u);
  EXPECT_TRUE(kv.pages().empty());
}

TEST(KvCacheTest, ReleasedPagesMakeRoomAndTheOthersStay) {
  KvPool pool = PoolOf(3);
  {
    KvCache kv(&pool, 160);
    Append(kv, 0, 96);
    kv.Release(31);
    EXPECT_EQ(kv.released(), 0u) << "the page has a position that is still looked at";
    kv.Release(64);
    EXPECT_EQ(kv.released(), 2u);
    EXPECT_EQ(pool.used(), 1u);
    ExpectRows(kv, 0, 64, 96);
    Append(kv, 1, 64);
    EXPECT_EQ(pool.used(), 3u);
    ExpectRows(kv, 0, 64, 96);
    ExpectRows(kv, 1, 96, 160);
    kv.Release(40);  // Less than before: nothing happens.
    EXPECT_EQ(kv.released(), 2u);
    kv.Truncate(0);
    EXPECT_EQ(pool.used(), 0u);
    EXPECT_EQ(kv.released(), 0u);
    Append(kv, 2, 96);
    ExpectRows(kv, 2, 0, 96);
    kv.Release(96);
    EXPECT_EQ(pool.used(), 0u);
  }
  EXPECT_EQ(pool.used(), 0u);
}

// Shares the pages of one sequence with a new one.
void Share(KvPool& pool, const KvCache& from, KvCache& to) {
  for (const PageId page : from.pages()) pool.Share(page);
  to.Adopt(from.pages());
}

TEST(KvCacheTest, SequencesThatBeginAlikeShareFullPages) {
  KvPool pool = PoolOf(4);
  KvCache a(&pool, 128);
  Append(a, 0, 64);
  KvCache b(&pool, 128);
  Share(pool, a, b);
  EXPECT_EQ(b.size(), 64u);
  EXPECT_EQ(pool.used(), 2u);
  Append(a, 0, 10);
  Append(b, 1, 10);
  EXPECT_EQ(pool.used(), 4u);
  ExpectRows(a, 0, 0, 74);
  ExpectRows(b, 0, 0, 64);
  ExpectRows(b, 1, 64, 74);
  EXPECT_EQ(a.pages()[1], b.pages()[1]);
}

TEST(KvCacheTest, ASharedPageIsCopiedBeforeItIsWritten) {
  KvPool pool = PoolOf(4);
  KvCache a(&pool, 128);
  Append(a, 0, 64);
  KvCache b(&pool, 128);
  Share(pool, a, b);
  b.Truncate(50);
  EXPECT_EQ(a.pages()[1], b.pages()[1]);
  Append(b, 1, 3);
  EXPECT_NE(a.pages()[1], b.pages()[1]);
  EXPECT_EQ(a.pages()[0], b.pages()[0]);
  EXPECT_EQ(pool.used(), 3u);
  ExpectRows(a, 0, 0, 64);
  ExpectRows(b, 0, 0, 50);
  ExpectRows(b, 1, 50, 53);
  // Room behind a size that was set back may be shared as well.
  KvCache c(&pool, 128);
  Share(pool, a, c);
  c.set_size(10);
  EXPECT_EQ(c.Grow(1).code(), absl::StatusCode::kResourceExhausted);  // Two copies, one page.
  b.Truncate(0);
  Append(c, 2, 30);
  ExpectRows(a, 0, 0, 64);
  ExpectRows(c, 0, 0, 10);
  ExpectRows(c, 2, 10, 40);
}

TEST(KvCacheTest, ABranchSharesFullPagesAndCopiesTheLast) {
  KvPool pool = PoolOf(4);
  KvCache a(&pool, 128), b(&pool, 128), c(&pool, 128);
  Append(a, 0, 70);
  ASSERT_TRUE(b.Branch(a).ok());
  EXPECT_EQ(pool.used(), 4u);
  EXPECT_EQ(b.pages()[1], a.pages()[1]);
  EXPECT_NE(b.pages()[2], a.pages()[2]);
  EXPECT_EQ(c.Branch(a).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(c.size() + c.pages().size(), 0u);
  Append(a, 1, 5);
  Append(b, 2, 5);
  ExpectRows(a, 1, 70, 75);
  ExpectRows(b, 0, 0, 70);
  ExpectRows(b, 2, 70, 75);
  // Of a full page there is nothing to copy.
  a.Truncate(64);
  ASSERT_TRUE(c.Branch(a).ok());
  EXPECT_EQ(c.pages().size(), 2u);
  ExpectRows(c, 0, 0, 64);
}

TEST(KvCacheTest, NumbersThatAreNotFiniteAreTold) {
  for (const KvType type : {KvType::kF16, KvType::kF32, KvType::kQ8}) {
    KvPool pool = PoolOf(1, type);
    KvCache kv(&pool, 32);
    ASSERT_TRUE(kv.Grow(1).ok());
    const std::vector<float> good(kHeads * kHeadSize, 1.0f);
    const Kernels& kernels = BestKernels(Precision::kExact);
    const auto stores = [&](float number, size_t at) {
      std::vector<float> row = good;
      row[at] = number;
      const bool key = kv.Store(kernels, 0, 0, row.data(), good.data());
      EXPECT_EQ(kv.Store(kernels, 0, 0, good.data(), row.data()), key);
      return key;
    };
    EXPECT_TRUE(kv.Store(kernels, 0, 0, good.data(), good.data()));
    for (const size_t at : {0, 5, 31, 63}) {
      EXPECT_FALSE(stores(INFINITY, at));
      EXPECT_FALSE(stores(-NAN, at));
      EXPECT_EQ(stores(-1e6f, at), type != KvType::kF16);  // More than a half holds.
      EXPECT_EQ(stores(1e7f, at), type == KvType::kF32);   // The scale is more than that.
    }
  }
}

}  // namespace tidegate::kv_cache_test
