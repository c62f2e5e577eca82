// Splits --memory-budget into what must be in memory and what is left for slots. Pure, but for the
// number of cores where a request leaves it open.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "proto/store/v1/pack_format.h"
#include "proto/store/v1/shm_layout.h"

namespace tidegate {

struct BudgetRequest {
  uint64_t memory_budget_bytes = 0;
  // Unset: DefaultEngineReserve() for an engine of so many threads, 0: one for each core here, as
  // engines have it.
  std::optional<uint64_t> engine_reserve_bytes = {};
  uint32_t engine_threads = 0;
  uint64_t staging_bytes = 0;  // per lease; 0: chosen
  bool cache = true;           // false: policy "none", no slots
  // Slots per (layer, kind) = floor(f * blocks), whatever the budget.
  std::optional<double> cache_fraction = {};
  // The share of all slots' bytes for input units; unset: every kind has the same part of its
  // blocks in memory. What one kind cannot use is the other's.
  std::optional<double> input_share = {};
};

// The region that fits the budget. Where it does not hold the whole model, a static tensor that may
// stay on flash (pack_format.h) does: a row of it is needed where a slot holds what every token may
// need. Every layer has the same number of slots. The budget covers the region, one engine's
// session, the store's tables and the engine reserve; not the programs themselves. Errors:
// RESOURCE_EXHAUSTED names the budget, its parts and the smallest budget that works;
// INVALID_ARGUMENT for a fraction outside [0, 1] or staging smaller than a block.
absl::StatusOr<RegionPlan> PlanRegion(const PackIndex& pack, const BudgetRequest& request);

// Bytes of a budget that `plan` takes.
uint64_t BudgetBytes(const PackIndex& pack, const RegionPlan& plan);

// Bytes of the budget that are the engine's: as asked for, else DefaultEngineReserve().
uint64_t EngineReserve(const PackIndex& pack, const BudgetRequest& request);

// A budget that holds the whole model, with staging as it is usual for so much; what `request` says
// of the budget itself is not looked at. INVALID_ARGUMENT as PlanRegion().
absl::StatusOr<uint64_t> WholeBudget(const PackIndex& pack, const BudgetRequest& request);

// Bytes of the static section that are in memory whatever the budget: without a last tensor that
// may stay on flash.
uint64_t LeastStaticBytes(const PackIndex& pack);

// Bytes of a half-precision KV cache for `tokens` positions.
uint64_t KvCacheBytes(const store::v1::HyperParameters& hp, uint64_t tokens);

// What an engine needs whose flags say nothing else: the KV cache of one context, the model's own
// but at most kDefaultContextTokens, and its steps' workspace beyond kWorkspaceBesideReserve.
uint64_t DefaultEngineReserve(const PackIndex& pack, uint32_t threads);

}  // namespace tidegate
