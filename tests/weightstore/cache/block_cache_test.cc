#include "weightstore/cache/block_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>

namespace tidegate::block_cache_test {

using Outcome = BlockCache::Outcome;

class Harness {
 public:
  Harness(uint32_t blocks, uint32_t slots, const char* policy)
      : residency_(blocks), cache_(residency_, slots, *MakeEvictionPolicy(policy, blocks)) {}

  // One token: selects, reads everything that was admitted, releases. Returns the outcomes.
  std::vector<Outcome> Token(const std::vector<uint32_t>& blocks,
                             LeaseMode mode = LeaseMode::kSelect) {
    return Land(Acquire(blocks, mode));
  }
  // The same with scores as shares of the largest.
  std::vector<Outcome> Scored(const std::map<uint32_t, double>& scores) {
    std::vector<WantedBlock> wanted;
    for (const auto& [block, score] : scores) wanted.push_back({block, 1, Fixed(score)});
    std::vector<BlockCache::Decision> decisions(wanted.size());
    cache_.Acquire(wanted, LeaseMode::kSelect, decisions);
    return Land(decisions);
  }
  static uint16_t Fixed(double score) { return static_cast<uint16_t>(score * kScoreMax); }

  std::vector<Outcome> Land(const std::vector<BlockCache::Decision>& decisions) {
    std::vector<Outcome> outcomes;
    for (const auto& d : decisions) {
      if (d.outcome == Outcome::kRead) cache_.Landed(d.slot);
    }
    for (const auto& d : decisions) {
      outcomes.push_back(d.outcome);
      if (d.outcome != Outcome::kBypass) cache_.Unpin(d.slot);
    }
    return outcomes;
  }

  std::vector<BlockCache::Decision> Acquire(const std::vector<uint32_t>& blocks,
                                            LeaseMode mode = LeaseMode::kSelect) {
    std::vector<WantedBlock> wanted;
    for (uint32_t block : blocks) wanted.push_back({block, 1});
    std::vector<BlockCache::Decision> decisions(blocks.size());
    cache_.Acquire(wanted, mode, decisions);
    return decisions;
  }

  std::set<uint32_t> Resident() const {
    std::set<uint32_t> blocks;
    for (uint32_t b = 0; b < residency_.size(); ++b) {
      if (residency_[b].load() != 0) blocks.insert(b);
    }
    return blocks;
  }

  std::vector<ResidencyEntry> residency_;
  BlockCache cache_;
};

using ::testing::ElementsAre;

TEST(BlockCacheTest, MissesAreAdmittedAndHitNextTime) {
  Harness h(8, 4, "lfu");
  EXPECT_THAT(h.Token({1, 3}), ElementsAre(Outcome::kRead, Outcome::kRead));
  EXPECT_THAT(h.Token({1, 2, 3}),
              ElementsAre(Outcome::kResident, Outcome::kRead, Outcome::kResident));
  EXPECT_EQ(h.Resident(), (std::set<uint32_t>{1, 2, 3}));
}

TEST(BlockCacheTest, LfuEvictsTheLeastSelectedOutsideTheMaskAndTheSmallerNumberOnTies) {
  Harness h(8, 3, "lfu");
  h.Token({0, 1, 2});
  h.Token({1});
  h.Token({5});  // 0 and 2 both count 1: 0 goes.
  EXPECT_EQ(h.Resident(), (std::set<uint32_t>{1, 2, 5}));
  h.Token({0, 5});  // Counts: 1 -> 2, 2 -> 1: 2 goes, although 0 was used more often than it.
  EXPECT_EQ(h.Resident(), (std::set<uint32_t>{0, 1, 5}));
}

TEST(BlockCacheTest, MaskFirstAdmitsEvenBlocksThatCountLessThanTheVictim) {
  Harness h(8, 2, "lfu");
  for (int i = 0; i < 5; ++i) h.Token({0, 1});
  h.Token({6, 7});
  EXPECT_EQ(h.Resident(), (std::set<uint32_t>{6, 7}));
}

TEST(BlockCacheTest, MaskLargerThanTheCacheAdmitsTheMostSelectedAndBypassesTheRest) {
  Harness h(8, 2, "lfu");
  h.Token({4, 5});
  h.Token({5});
  h.Token({0, 1});  // In their place.
  // Counts after Touch: 3 -> 1, 4 -> 2, 5 -> 3.
  EXPECT_THAT(h.Token({3, 4, 5}), ElementsAre(Outcome::kBypass, Outcome::kRead, Outcome::kRead));
}

TEST(BlockCacheTest, LruEvictsTheLeastRecentlySelected) {
  Harness h(8, 2, "lru");
  h.Token({0});
  h.Token({1});
  h.Token({0});
  h.Token({2});
  EXPECT_EQ(h.Resident(), (std::set<uint32_t>{0, 2}));
}

TEST(BlockCacheTest, NoneNeverAdmits) {
  Harness h(8, 4, "none");
  EXPECT_THAT(h.Token({0, 1}), ElementsAre(Outcome::kBypass, Outcome::kBypass));
  EXPECT_THAT(h.Token({0, 1}), ElementsAre(Outcome::kBypass, Outcome::kBypass));
}

TEST(BlockCacheTest, StreamsFillFreeSlotsEvictNothingAndCountNothing) {
  Harness h(8, 3, "lfu");
  h.Token({7});
  EXPECT_THAT(h.Token({0, 1, 2, 3, 7}, LeaseMode::kStream),
              ElementsAre(Outcome::kRead, Outcome::kRead, Outcome::kBypass, Outcome::kBypass,
                          Outcome::kResident));
  EXPECT_EQ(h.Resident(), (std::set<uint32_t>{0, 1, 7}));
  h.Token({0, 1, 2, 3, 7}, LeaseMode::kStream);
  h.Token({4});  // 0 and 1 count nothing: 0 goes first, 7 stays.
  EXPECT_EQ(h.Resident(), (std::set<uint32_t>{1, 4, 7}));
}

TEST(BlockCacheTest, PinnedAndInFlightBlocksAreNeverVictims) {
  Harness h(8, 2, "lfu");
  const auto first = h.Acquire({0, 1});
  EXPECT_THAT(h.Token({2}), ElementsAre(Outcome::kBypass));  // Both slots pinned and in flight.
  h.cache_.Landed(first[0].slot);
  h.cache_.Unpin(first[0].slot);
  h.cache_.Unpin(first[1].slot);  // Still in flight.
  EXPECT_THAT(h.Token({3}), ElementsAre(Outcome::kRead));
  EXPECT_EQ(h.Resident(), (std::set<uint32_t>{1, 3}));
  h.cache_.Landed(first[1].slot);
}

TEST(BlockCacheTest, JoinsAReadThatIsInFlight) {
  Harness h(8, 2, "lfu");
  const auto first = h.Acquire({0});
  const auto second = h.Acquire({0});
  EXPECT_EQ(second[0].outcome, Outcome::kJoined);
  EXPECT_EQ(second[0].slot, first[0].slot);
  EXPECT_EQ(h.residency_[0].load(), (first[0].slot + 1) | kInFlight);
  h.cache_.Landed(first[0].slot);
  EXPECT_EQ(h.residency_[0].load(), first[0].slot + 1);
}

TEST(BlockCacheTest, FailedBlockIsNotResidentAndItsSlotComesBackAfterTheLastPin) {
  Harness h(8, 1, "lfu");
  const auto lease = h.Acquire({0});
  h.cache_.Failed(lease[0].slot);
  EXPECT_TRUE(h.Resident().empty());
  EXPECT_THAT(h.Token({1}), ElementsAre(Outcome::kBypass));  // The slot is doomed, not free.
  h.cache_.Unpin(lease[0].slot);
  EXPECT_EQ(h.cache_.used_count(), 0u);
  EXPECT_THAT(h.Token({1}), ElementsAre(Outcome::kRead));
}

TEST(BlockCacheTest, AdoptedBlocksAreResident) {
  Harness h(8, 3, "lfu");
  h.cache_.Adopt(5, 1);
  EXPECT_THAT(h.Token({5, 6}), ElementsAre(Outcome::kResident, Outcome::kRead));
  EXPECT_EQ(h.cache_.used_count(), 2u);
}

// The reference semantics (golden README), written as plainly as possible.
struct PlainLfu {
  size_t capacity;
  std::map<uint32_t, uint64_t> count;
  std::set<uint32_t> resident;

  size_t Token(const std::vector<uint32_t>& mask) {
    for (uint32_t b : mask) ++count[b];
    std::vector<uint32_t> missing, victims;
    for (uint32_t b : mask) {
      if (!resident.count(b)) missing.push_back(b);
    }
    for (uint32_t b : resident) {
      if (!std::binary_search(mask.begin(), mask.end(), b)) victims.push_back(b);
    }
    const size_t hits = mask.size() - missing.size();
    std::stable_sort(missing.begin(), missing.end(),
                     [&](uint32_t a, uint32_t b) { return count[a] > count[b]; });
    std::stable_sort(victims.begin(), victims.end(),
                     [&](uint32_t a, uint32_t b) { return count[a] < count[b]; });
    const size_t room = capacity - resident.size();
    missing.resize(std::min(missing.size(), room + victims.size()));
    for (size_t i = 0; i + room < missing.size(); ++i) resident.erase(victims[i]);
    resident.insert(missing.begin(), missing.end());
    return hits;
  }
};

TEST(BlockCacheTest, AgreesWithThePlainReferenceOnRandomMasks) {
  std::mt19937 rng(7);
  for (const uint32_t slots : {0u, 1u, 5u, 12u, 30u}) {
    Harness h(30, slots, "lfu");
    PlainLfu plain{.capacity = slots, .count = {}, .resident = {}};
    for (int token = 0; token < 300; ++token) {
      std::vector<uint32_t> mask;
      for (uint32_t b = 0; b < 30; ++b) {
        if (rng() % 100 < 20 + b) mask.push_back(b);
      }
      const std::vector<Outcome> outcomes = h.Token(mask);
      const size_t hits =
          static_cast<size_t>(std::count(outcomes.begin(), outcomes.end(), Outcome::kResident));
      ASSERT_EQ(hits, plain.Token(mask)) << "slots " << slots << " token " << token;
      ASSERT_EQ(h.Resident(), plain.resident) << "slots " << slots << " token " << token;
    }
  }
}

TEST(ValuePolicyTest, ABlockComesInOnlyForOneThatIsWorthLess) {
  Harness h(8, 2, "value");
  h.Scored({{0, 1.0}, {1, 0.5}});  // Worth 1 and 0.25.
  EXPECT_THAT(h.Scored({{2, 0.25}}), ElementsAre(Outcome::kBypass));
  EXPECT_EQ(h.Resident(), (std::set<uint32_t>{0, 1}));
  // Now worth 1 and the sixteenth of before: more than 0 and 1, the lesser of which goes.
  EXPECT_THAT(h.Scored({{2, 1.0}}), ElementsAre(Outcome::kRead));
  EXPECT_EQ(h.Resident(), (std::set<uint32_t>{0, 2}));
}

TEST(ValuePolicyTest, BlocksOfTheMaskStayAndEqualsDoNotMove) {
  Harness h(8, 2, "value");
  h.Scored({{0, 0.0}, {1, 0.0}});
  EXPECT_THAT(h.Scored({{0, 0.0}, {2, 1.0}}), ElementsAre(Outcome::kResident, Outcome::kRead));
  EXPECT_EQ(h.Resident(), (std::set<uint32_t>{0, 2}));
  EXPECT_THAT(h.Scored({{3, 0.0}}), ElementsAre(Outcome::kBypass));
}

TEST(ValuePolicyTest, OldScoresFade) {
  Harness h(8, 1, "value");
  h.Scored({{0, 1.0}});
  // Worth of 1 against 0: 0.25 to 0.998, 0.4995 to 0.996, 0.7485 to 0.994, 0.997 to 0.992.
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(h.Scored({{1, 0.5001}}), ElementsAre(Outcome::kBypass)) << i;
  }
  EXPECT_THAT(h.Scored({{1, 0.5001}}), ElementsAre(Outcome::kRead));
}

TEST(ValuePolicyTest, MaskLargerThanTheCacheAdmitsTheMostValuable) {
  Harness h(8, 2, "value");
  EXPECT_THAT(h.Scored({{0, 0.1}, {1, 1.0}, {2, 0.3}, {3, 0.9}}),
              ElementsAre(Outcome::kBypass, Outcome::kRead, Outcome::kBypass, Outcome::kRead));
}

TEST(ValuePolicyTest, OrderSurvivesMoreMasksThanADoubleCanGrow) {
  Harness h(8, 1, "value");
  for (int i = 0; i < 250'000; ++i) h.Scored({{0, 0.5}});  // 0.998^-250000 is 10^217.
  EXPECT_THAT(h.Scored({{1, 1.0}}), ElementsAre(Outcome::kBypass));
  EXPECT_EQ(h.Resident(), (std::set<uint32_t>{0}));
}

TEST(ValuePolicyTest, AgreesWithThePlainRuleOnRandomMasks) {
  std::mt19937 rng(11);
  for (const uint32_t slots : {0u, 1u, 5u, 12u, 30u}) {
    Harness h(30, slots, "value");
    std::vector<double> worth(30, 0);
    std::set<uint32_t> resident;
    for (int token = 0; token < 300; ++token) {
      std::map<uint32_t, double> mask;
      for (uint32_t b = 0; b < 30; ++b) {
        if (rng() % 100 < 20 + b) mask[b] = static_cast<double>(rng() % 1000) / 999;
      }
      for (double& w : worth) w *= 0.998;
      std::vector<std::pair<double, uint32_t>> ranked;  // what may lie in the slots left
      std::set<uint32_t> kept;
      for (const auto& [b, score] : mask) {
        worth[b] += std::pow(static_cast<double>(Harness::Fixed(score)) / kScoreMax, 2);
        if (resident.count(b)) {
          kept.insert(b);
        } else {
          ranked.emplace_back(-worth[b], b);
        }
      }
      for (const uint32_t b : resident) {
        if (!mask.count(b)) ranked.emplace_back(-worth[b], b);
      }
      std::sort(ranked.begin(), ranked.end());
      for (const auto& [w, b] : ranked) {
        if (kept.size() < slots) kept.insert(b);
      }
      resident = kept;
      h.Scored(mask);
      ASSERT_EQ(h.Resident(), resident) << "slots " << slots << " token " << token;
    }
  }
}

TEST(EvictionPolicyTest, RefusesUnknownNames) {
  const auto policy = MakeEvictionPolicy("arc", 4);
  EXPECT_EQ(policy.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(policy.status().message()), ::testing::HasSubstr("arc"));
}

}  // namespace tidegate::block_cache_test
