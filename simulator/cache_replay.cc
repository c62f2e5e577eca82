#include "simulator/cache_replay.h"

#include <algorithm>
#include <limits>
#include <memory>

#include "absl/strings/str_cat.h"
#include "weightstore/cache/block_cache.h"

namespace tidegate {
namespace {

ReplayCounts Replay(const MaskTrace& trace, uint32_t layer, UnitKind kind, uint32_t slots,
                    std::unique_ptr<EvictionPolicy> policy) {
  std::vector<ResidencyEntry> residency(trace.shape().unit_count[static_cast<uint32_t>(kind)]);
  BlockCache cache(residency, slots, std::move(policy));
  ReplayCounts counts;
  std::vector<uint32_t> units;
  std::vector<WantedBlock> wanted;
  std::vector<BlockCache::Decision> decisions;
  for (uint64_t t = 0; t < trace.tokens(); ++t) {
    trace.Units(t, layer, kind, units);
    wanted.clear();
    for (const uint32_t unit : units) wanted.push_back({unit, 1, kScoreMax});
    decisions.resize(wanted.size());
    cache.Acquire(wanted, LeaseMode::kSelect, decisions);
    uint32_t hits = 0;
    for (const BlockCache::Decision& decision : decisions) {
      hits += decision.outcome == BlockCache::Outcome::kResident;
      if (decision.outcome == BlockCache::Outcome::kRead) cache.Landed(decision.slot);
      if (decision.outcome != BlockCache::Outcome::kBypass) cache.Unpin(decision.slot);
    }
    counts.hits.push_back(hits);
    counts.misses.push_back(static_cast<uint32_t>(units.size()) - hits);
  }
  return counts;
}

ReplayCounts ReplayBelady(const MaskTrace& trace, uint32_t layer, UnitKind kind, uint32_t slots) {
  constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();
  const uint32_t unit_count = trace.shape().unit_count[static_cast<uint32_t>(kind)];
  std::vector<std::vector<uint64_t>> uses(unit_count);  // tokens, rising
  std::vector<uint32_t> units;
  for (uint64_t t = 0; t < trace.tokens(); ++t) {
    trace.Units(t, layer, kind, units);
    for (const uint32_t unit : units) uses[unit].push_back(t);
  }
  std::vector<size_t> used(unit_count, 0);  // uses that lie behind
  const auto next_use = [&](uint32_t unit) {
    return used[unit] < uses[unit].size() ? uses[unit][used[unit]] : kNever;
  };
  std::vector<bool> resident(unit_count, false);
  std::vector<uint32_t> kept, candidates;
  ReplayCounts counts;
  for (uint64_t t = 0; t < trace.tokens(); ++t) {
    trace.Units(t, layer, kind, units);
    candidates = kept;
    for (const uint32_t unit : units) {
      ++used[unit];
      if (!resident[unit]) candidates.push_back(unit);
    }
    const auto misses = static_cast<uint32_t>(candidates.size() - kept.size());
    counts.hits.push_back(static_cast<uint32_t>(units.size()) - misses);
    counts.misses.push_back(misses);
    for (const uint32_t unit : kept) resident[unit] = false;
    if (candidates.size() > slots) {
      std::nth_element(candidates.begin(), candidates.begin() + static_cast<ptrdiff_t>(slots),
                       candidates.end(),
                       [&](uint32_t a, uint32_t b) { return next_use(a) < next_use(b); });
      candidates.resize(slots);
    }
    kept.swap(candidates);
    for (const uint32_t unit : kept) resident[unit] = true;
  }
  return counts;
}

}  // namespace

absl::StatusOr<ReplayCounts> ReplayMasks(const MaskTrace& trace, uint32_t layer, UnitKind kind,
                                         uint32_t slots, std::string_view policy) {
  const uint32_t unit_count = trace.shape().unit_count[static_cast<uint32_t>(kind)];
  slots = std::min(slots, unit_count);
  if (policy == "belady") return ReplayBelady(trace, layer, kind, slots);
  auto served = MakeEvictionPolicy(policy, unit_count);
  if (!served.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("unknown policy '", std::string(policy),
                                                   "'; use value, lfu, lru, none or belady"));
  }
  return Replay(trace, layer, kind, slots, *std::move(served));
}

}  // namespace tidegate
