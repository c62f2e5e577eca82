// Cost of a cache decision: BlockCache::Acquire for masks of an 8B-shaped layer (4,096 input and
// 14,336 hidden units, one unit per block) at several cache sizes. No I/O: admitted blocks land at
// once.
#include <benchmark/benchmark.h>

#include <random>

#include "weightstore/cache/block_cache.h"

namespace tidegate {
namespace {

// Masks of consecutive tokens: most units stay, some change, as activations do.
std::vector<std::vector<WantedBlock>> MakeMasks(uint32_t units, double keep, size_t count) {
  std::mt19937 rng(1);
  std::vector<double> affinity(units);
  for (double& a : affinity) a = std::uniform_real_distribution<>(0, 1)(rng);
  std::vector<std::vector<WantedBlock>> masks(count);
  for (auto& mask : masks) {
    for (uint32_t u = 0; u < units; ++u) {
      const double noise = std::uniform_real_distribution<>(-0.3, 0.3)(rng);
      if (affinity[u] + noise > 1 - keep)
        mask.push_back({u, 1, static_cast<uint16_t>(rng() % kScoreMax)});
    }
  }
  return masks;
}

void BM_Acquire(benchmark::State& state, const char* policy) {
  const auto units = static_cast<uint32_t>(state.range(0));
  const auto slots = static_cast<uint32_t>(units * state.range(1) / 100);
  std::vector<ResidencyEntry> residency(units);
  BlockCache cache(residency, slots, *MakeEvictionPolicy(policy, units));
  const auto masks = MakeMasks(units, 0.5, 64);
  std::vector<BlockCache::Decision> decisions(units);
  size_t next = 0, blocks = 0, reads = 0;
  for (auto _ : state) {
    const auto& mask = masks[next++ % masks.size()];
    const std::span<BlockCache::Decision> out(decisions.data(), mask.size());
    cache.Acquire(mask, LeaseMode::kSelect, out);
    for (const auto& d : out) {
      if (d.outcome == BlockCache::Outcome::kRead) {
        cache.Landed(d.slot);
        ++reads;
      }
    }
    for (const auto& d : out) {
      if (d.outcome != BlockCache::Outcome::kBypass) cache.Unpin(d.slot);
    }
    blocks += mask.size();
  }
  state.SetItemsProcessed(static_cast<int64_t>(blocks));
  state.counters["miss_share"] = static_cast<double>(reads) / static_cast<double>(blocks);
}
BENCHMARK_CAPTURE(BM_Acquire, lfu, "lfu")->ArgsProduct({{4096, 14336}, {30, 60}});
BENCHMARK_CAPTURE(BM_Acquire, value, "value")->ArgsProduct({{4096, 14336}, {30, 60}});
BENCHMARK_CAPTURE(BM_Acquire, lru, "lru")->ArgsProduct({{4096, 14336}, {30, 60}});

}  // namespace
}  // namespace tidegate

BENCHMARK_MAIN();
