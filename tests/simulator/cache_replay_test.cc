#include "simulator/cache_replay.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <map>
#include <numeric>
#include <random>

#include "base/unique_fd.h"
#include "tests/support/test_support.h"

namespace tidegate::cache_replay_test {

using ::testing::ElementsAre;
using Masks = std::vector<std::vector<uint32_t>>;

// A trace of one layer whose hidden masks are `masks`.
MaskTrace TraceOf(const Masks& masks, uint32_t unit_count) {
  const TempDir dir;
  const auto fd = UniqueFd::Open(dir.File("t"), O_RDWR | O_CREAT, 0600);
  MaskTraceWriter writer(fd->get(), {.layer_count = 1, .unit_count = {1, unit_count}});
  for (const std::vector<uint32_t>& mask : masks) {
    writer.Add(UnitKind::kInput, {});
    writer.Add(UnitKind::kHidden, mask);
  }
  EXPECT_TRUE(writer.Finish().ok());
  auto trace = MaskTrace::Load(dir.File("t"));
  EXPECT_TRUE(trace.ok()) << trace.status();
  return *std::move(trace);
}

std::vector<uint32_t> Misses(const Masks& masks, uint32_t unit_count, uint32_t slots,
                             const char* policy) {
  const auto counts = ReplayMasks(TraceOf(masks, unit_count), 0, UnitKind::kHidden, slots, policy);
  EXPECT_TRUE(counts.ok()) << counts.status();
  for (size_t t = 0; t < masks.size(); ++t) {
    EXPECT_EQ(counts->hits[t] + counts->misses[t], masks[t].size());
  }
  return counts->misses;
}

uint64_t Sum(const std::vector<uint32_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), uint64_t{0});
}

TEST(CacheReplayTest, HandComputed) {
  const Masks masks = {{0, 1}, {0, 2}, {1, 2}, {0, 1}, {0, 1}};
  EXPECT_THAT(Misses(masks, 4, 2, "none"), ElementsAre(2, 2, 2, 2, 2));
  // lru, mask first: {0,1} {0,2} {1,2}: 0 leaves for 1; {0,1}: 2 leaves for 0; all there.
  EXPECT_THAT(Misses(masks, 4, 2, "lru"), ElementsAre(2, 1, 1, 1, 0));
  EXPECT_THAT(Misses(masks, 4, 2, "lfu"), ElementsAre(2, 1, 1, 1, 0));
  // Knowing what comes: of {0, 1, 2}, 1 and 2 are needed first, and 0 is left out.
  EXPECT_THAT(Misses(masks, 4, 2, "belady"), ElementsAre(2, 1, 0, 1, 0));
  EXPECT_THAT(Misses(masks, 4, 3, "belady"), ElementsAre(2, 1, 0, 0, 0));
  EXPECT_THAT(Misses(masks, 4, 0, "lfu"), ElementsAre(2, 2, 2, 2, 2));
  EXPECT_THAT(Misses(masks, 4, 0, "belady"), ElementsAre(2, 2, 2, 2, 2));
}

TEST(CacheReplayTest, LfuKeepsWhatIsUsedOftenAndLruWhatIsUsedLast) {
  // 0 is used three times before others come by one after the other.
  const Masks masks = {{0}, {0}, {0}, {1}, {2}, {0}, {1}, {0}};
  EXPECT_THAT(Misses(masks, 3, 2, "lfu"), ElementsAre(1, 0, 0, 1, 1, 0, 1, 0));
  EXPECT_THAT(Misses(masks, 3, 2, "lru"), ElementsAre(1, 0, 0, 1, 1, 1, 1, 0));
  EXPECT_THAT(Misses(masks, 3, 2, "value"), ElementsAre(1, 0, 0, 1, 1, 0, 1, 0));
}

TEST(CacheReplayTest, AMaskLargerThanTheCacheStreamsTheRest) {
  const Masks masks = {{0, 1, 2}, {0, 1, 2}, {0, 1, 2}};
  for (const char* policy : {"lfu", "lru", "belady"}) {
    EXPECT_THAT(Misses(masks, 3, 2, policy), ElementsAre(3, 1, 1)) << policy;
  }
}

// Every choice of what to keep after each mask, tried out: the least misses there can be.
uint64_t FewestMisses(const Masks& masks, uint32_t slots) {
  std::map<uint32_t, uint64_t> best = {{0, 0}};  // resident set -> misses so far
  for (const std::vector<uint32_t>& mask : masks) {
    uint32_t wanted = 0;
    for (const uint32_t unit : mask) wanted |= 1u << unit;
    std::map<uint32_t, uint64_t> next;
    for (const auto& [resident, misses] : best) {
      const uint64_t cost = misses + static_cast<uint64_t>(std::popcount(wanted & ~resident));
      const uint32_t all = resident | wanted;
      for (uint32_t kept = all;; kept = (kept - 1) & all) {
        if (static_cast<uint32_t>(std::popcount(kept)) <= slots) {
          const auto [entry, added] = next.emplace(kept, cost);
          if (!added) entry->second = std::min(entry->second, cost);
        }
        if (kept == 0) break;
      }
    }
    best.swap(next);
  }
  uint64_t fewest = ~uint64_t{0};
  for (const auto& [resident, misses] : best) fewest = std::min(fewest, misses);
  return fewest;
}

TEST(CacheReplayTest, BeladyEqualsBruteForce) {
  std::mt19937 rng(17);
  for (int round = 0; round < 60; ++round) {
    const uint32_t unit_count = 4 + rng() % 3, slots = rng() % (unit_count + 1);
    Masks masks(8);
    for (std::vector<uint32_t>& mask : masks) {
      for (uint32_t unit = 0; unit < unit_count; ++unit) {
        if (rng() % 5 < 2) mask.push_back(unit);
      }
    }
    const uint64_t belady = Sum(Misses(masks, unit_count, slots, "belady"));
    EXPECT_EQ(belady, FewestMisses(masks, slots)) << round;
    for (const char* policy : {"value", "lfu", "lru", "none"}) {
      EXPECT_GE(Sum(Misses(masks, unit_count, slots, policy)), belady) << policy;
    }
  }
}

TEST(CacheReplayTest, AnUnknownPolicyIsNamed) {
  const auto counts = ReplayMasks(TraceOf({{0}}, 1), 0, UnitKind::kHidden, 1, "magic");
  EXPECT_EQ(counts.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(counts.status().message()),
            "unknown policy 'magic'; use value, lfu, lru, none or belady");
}

}  // namespace tidegate::cache_replay_test
