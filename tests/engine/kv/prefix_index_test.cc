#include "engine/kv/prefix_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "engine/kv/kv_cache.h"

namespace tidegate::prefix_index_test {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

ModelConfig Config() {
  ModelConfig config;
  config.layer_count = 1;
  config.kv_heads = 1;
  config.head_size = 64;
  return config;
}

// `pages` whole pages of tokens from `first` on.
std::vector<TokenId> Tokens(size_t pages, TokenId first = 0) {
  std::vector<TokenId> tokens(pages * kKvPageTokens);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

std::vector<TokenId> Joined(std::vector<TokenId> a, const std::vector<TokenId>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class PrefixIndexTest : public testing::Test {
 protected:
  explicit PrefixIndexTest(uint64_t pages = 8)
      : pool_(KvPool::ForTokens(Config(), KvType::kF16, pages * kKvPageTokens)), index_(&pool_) {}

  // A prompt that is computed, added and ends. Its pages.
  std::vector<PageId> Remember(const std::vector<TokenId>& tokens, const PrefixKey& key = {}) {
    std::vector<PageId> pages;
    for (size_t i = 0; i < tokens.size() / kKvPageTokens; ++i) pages.push_back(*pool_.Take());
    index_.Add(key, tokens, pages);
    Drop(pages);
    return pages;
  }

  // How many pages of `tokens` and one more are known.
  size_t Known(std::vector<TokenId> tokens, const PrefixKey& key = {}) {
    tokens.push_back(-1);
    const std::vector<PageId> pages = index_.Longest(key, tokens);
    Drop(pages);
    return pages.size();
  }

  void Drop(const std::vector<PageId>& pages) {
    for (const PageId page : pages) pool_.Drop(page);
  }

  KvPool pool_;
  PrefixIndex index_;
};

TEST_F(PrefixIndexTest, FindsTheLongestBeginningInWholePages) {
  const std::vector<TokenId> text = Tokens(3);
  const std::vector<PageId> pages = Remember(text);
  EXPECT_EQ(pool_.used(), 3u);
  const auto of = [&](std::vector<TokenId> tokens) {
    std::vector<PageId> found = index_.Longest({}, tokens);
    Drop(found);
    return found;
  };
  EXPECT_THAT(of(Joined(text, {1, 2})), ElementsAre(pages[0], pages[1], pages[2]));
  EXPECT_THAT(of(Joined(Tokens(2), Tokens(1, 500))), ElementsAre(pages[0], pages[1]));
  EXPECT_THAT(of(Joined(Tokens(1), {5})), ElementsAre(pages[0]));
  std::vector<TokenId> late = Joined(text, {1});
  late[63] = -5;  // The last token of the second page.
  EXPECT_THAT(of(late), ElementsAre(pages[0]));
  EXPECT_THAT(of(Tokens(3, 1)), IsEmpty());
  EXPECT_THAT(of({}), IsEmpty());
  // The second page alone is no beginning.
  EXPECT_THAT(of(Joined(Tokens(2, 32), {1})), IsEmpty());
}

TEST_F(PrefixIndexTest, LeavesOneTokenAtLeast) {
  const std::vector<TokenId> text = Tokens(2);
  Remember(text);
  std::vector<PageId> found = index_.Longest({}, text);
  EXPECT_EQ(found.size(), 1u);
  Drop(found);
  found = index_.Longest({}, Tokens(1));
  EXPECT_THAT(found, IsEmpty());
}

TEST_F(PrefixIndexTest, KeysShareNothing) {
  const std::vector<TokenId> text = Tokens(2);
  const PrefixKey key = {.salt = "a", .precision = Precision::kFast, .long_context = true};
  Remember(text, key);
  EXPECT_EQ(Known(text, key), 2u);
  PrefixKey other = key;
  other.salt = "b";
  EXPECT_EQ(Known(text, other), 0u);
  other = key;
  other.precision = Precision::kExact;
  EXPECT_EQ(Known(text, other), 0u);
  other = key;
  other.long_context = false;
  EXPECT_EQ(Known(text, other), 0u);
  Remember(text, other);
  EXPECT_EQ(Known(text, other), 2u);
  EXPECT_EQ(pool_.used(), 4u);
}

TEST_F(PrefixIndexTest, WhatIsFoundBeginsASequenceThatNobodyElseWritesTo) {
  const std::vector<TokenId> text = Tokens(2);
  const std::vector<PageId> pages = Remember(text);
  const std::vector<PageId> found = index_.Longest({}, Joined(text, {7}));
  {
    KvCache kv(&pool_, 100);
    kv.Adopt(found);
    EXPECT_EQ(kv.size(), 64u);
    EXPECT_EQ(pool_.holders(pages[0]), 2u);
    EXPECT_EQ(pool_.cached_only(), 0u);
    kv.Truncate(40);
    ASSERT_TRUE(kv.Grow(1).ok());
    EXPECT_EQ(kv.pages()[0], pages[0]);
    EXPECT_NE(kv.pages()[1], pages[1]);
    EXPECT_EQ(pool_.cached_only(), 1u);
  }
  EXPECT_EQ(pool_.cached_only(), 2u);
  EXPECT_EQ(pool_.available(), pool_.capacity());
  EXPECT_EQ(Known(text), 2u);
}

TEST_F(PrefixIndexTest, WhatIsKnownStaysAndIsContinued) {
  const std::vector<PageId> first = Remember(Tokens(2));
  const std::vector<PageId> again = Remember(Tokens(3));
  EXPECT_EQ(pool_.used(), 3u);
  std::vector<PageId> found = index_.Longest({}, Joined(Tokens(3), {1}));
  EXPECT_THAT(found, ElementsAre(first[0], first[1], again[2]));
  Drop(found);
  // A part of a prompt, while more of it is to come.
  const PageId page = *pool_.Take();
  index_.Add({}, Tokens(3, 900), std::vector{page});
  pool_.Drop(page);
  EXPECT_EQ(Known(Tokens(3, 900)), 1u);
}

class SmallIndexTest : public PrefixIndexTest {
 protected:
  SmallIndexTest() : PrefixIndexTest(4) {}
};

TEST_F(SmallIndexTest, TheEndOfThePromptOfOldestUseIsForgottenFirst) {
  Remember(Tokens(2, 0));
  Remember(Tokens(2, 1000));
  EXPECT_EQ(Known(Tokens(2, 0)), 2u);  // Used later than the other now.
  std::vector<PageId> taken;
  const auto take = [&] { taken.push_back(*pool_.Take()); };
  EXPECT_EQ(pool_.available(), 4u);
  take();
  EXPECT_EQ(index_.stats().evicted_pages, 1u);
  EXPECT_EQ(index_.stats().pages, 3u);
  take();
  EXPECT_EQ(index_.stats().pages, 2u);
  EXPECT_EQ(pool_.available(), 2u);
  EXPECT_EQ(Known(Tokens(2, 1000)), 0u);
  EXPECT_EQ(Known(Tokens(2, 0)), 2u);
  take();
  EXPECT_EQ(Known(Tokens(2, 0)), 1u);
  take();
  EXPECT_EQ(index_.stats().pages, 0u);
  EXPECT_FALSE(pool_.Take().has_value());
  Drop(taken);
}

TEST_F(SmallIndexTest, AHalfOfAPromptIsForgottenFromItsEnd) {
  Remember(Tokens(4));
  const PageId taken = *pool_.Take();
  EXPECT_EQ(Known(Tokens(4)), 3u);
  pool_.Drop(taken);
}

TEST_F(SmallIndexTest, PagesInUseStay) {
  Remember(Tokens(2, 0));
  std::vector<PageId> used = index_.Longest({}, Joined(Tokens(2, 0), {1}));
  Remember(Tokens(2, 1000));
  std::vector<PageId> taken;
  while (const auto page = pool_.Take()) taken.push_back(*page);
  EXPECT_EQ(taken.size(), 2u);
  EXPECT_EQ(Known(Tokens(2, 0)), 2u);
  EXPECT_EQ(Known(Tokens(2, 1000)), 0u);
  Drop(used);
  Drop(taken);
}

TEST_F(SmallIndexTest, APageTakesWhatLiesBehindItAlong) {
  // Two prompts are computed side by side: what the second one adds lies behind the first one's.
  Remember(Tokens(1));
  std::vector<PageId> own = {*pool_.Take(), *pool_.Take()};
  index_.Add({}, Tokens(2), own);
  EXPECT_EQ(Known(Tokens(2)), 2u);
  std::vector<PageId> taken = {*pool_.Take(), *pool_.Take()};  // One was free.
  EXPECT_EQ(index_.stats().pages, 0u);
  EXPECT_EQ(index_.stats().evicted_pages, 2u);
  EXPECT_EQ(pool_.holders(own[1]), 1u);
  Drop(own);
  EXPECT_EQ(pool_.used(), 2u);
  EXPECT_EQ(Known(Tokens(2)), 0u);
  Drop(taken);
  Remember(Tokens(2));
  EXPECT_EQ(Known(Tokens(2)), 2u);
}

TEST_F(SmallIndexTest, ASmallerBudgetForgetsAtOnce) {
  Remember(Tokens(4));
  pool_.SetBudget(pool_.page_bytes());
  EXPECT_EQ(index_.stats().pages, 1u);
  EXPECT_EQ(Known(Tokens(4)), 1u);
}

TEST_F(PrefixIndexTest, CountsWhatWasLookedUpAndFound) {
  Remember(Tokens(2));
  Known(Tokens(2));     // 65 tokens
  Known(Tokens(1, 9));  // 33
  const PrefixStats stats = index_.stats();
  EXPECT_EQ(stats.lookup_tokens, 98u);
  EXPECT_EQ(stats.hit_tokens, 64u);
  EXPECT_EQ(stats.pages, 2u);
  EXPECT_EQ(stats.evicted_pages, 0u);
}

TEST_F(PrefixIndexTest, GivesItsPagesBackWhenItGoes) {
  KvPool pool = KvPool::ForTokens(Config(), KvType::kF16, 64);
  {
    PrefixIndex index(&pool);
    const PageId page = *pool.Take();
    index.Add({}, Tokens(1), std::vector{page});
    pool.Drop(page);
    EXPECT_EQ(pool.used(), 1u);
  }
  EXPECT_EQ(pool.used(), 0u);
  EXPECT_EQ(pool.available(), 2u);
}

}  // namespace tidegate::prefix_index_test
