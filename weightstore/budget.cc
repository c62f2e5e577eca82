#include "weightstore/budget.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/units.h"
#include "proto/store/v1/defaults.h"
#include "proto/store/v1/step_workspace.h"

namespace tidegate {
namespace {

// Staging per lease by default: enough for a few large reads in flight, a small part of the budget.
constexpr uint64_t kStagingMaxBytes = 4 * kMiB;
constexpr uint64_t kStagingBudgetShare = 256;
// The store's own bookkeeping per block: policy counts, slot table, checksum (measured sizes of the
// containers in BlockCache and PackIndex, rounded up).
constexpr uint64_t kTableBytesPerBlock = 40;

uint64_t LargestBlock(const PackGeometry& geometry) {
  return std::max(geometry.kinds[0].block_bytes, geometry.kinds[1].block_bytes);
}

// The least staging that the request allows, rounded to pages.
absl::StatusOr<uint64_t> LeastStaging(const PackGeometry& geometry, const BudgetRequest& request) {
  const uint64_t largest = LargestBlock(geometry);
  if (request.staging_bytes == 0) return RoundUp(2 * largest, kPageBytes);
  const uint64_t staging = RoundUp(request.staging_bytes, kPageBytes);
  if (staging < largest) {
    return absl::InvalidArgumentError(
        absl::StrCat("staging of ", FormatBytes(staging), " is smaller than a block of ",
                     FormatBytes(largest), "; give at least ", largest, " bytes"));
  }
  return staging;
}

// What a budget can afford beyond the least staging, when `spare` of it is left for slots and
// staging.
uint64_t AffordableStaging(const BudgetRequest& request, uint64_t least, uint64_t spare) {
  if (request.staging_bytes != 0) return least;
  const uint64_t share =
      std::min(request.memory_budget_bytes / kStagingBudgetShare, kStagingMaxBytes);
  const uint64_t limit = least + spare / (kMaxSessions * kLeasesPerSession);
  return std::max(least, std::min(share, limit) / kPageBytes * kPageBytes);
}

// Bytes of one slot of every (layer, kind).
uint64_t SlotSetBytes(const PackGeometry& geometry) {
  return geometry.layer_count *
         (uint64_t{geometry.kinds[0].block_bytes} + geometry.kinds[1].block_bytes);
}

using KindBytes = std::array<double, kUnitKinds>;

// Bytes of a layer's blocks, by kind.
KindBytes BlockBytes(const PackGeometry& geometry) {
  const auto bytes = [](const KindGeometry& k) {
    return static_cast<double>(uint64_t{k.block_count} * k.block_bytes);
  };
  return {bytes(geometry.kinds[0]), bytes(geometry.kinds[1])};
}

// The same without the padding of blocks.
KindBytes UnitBytes(const PackGeometry& geometry) {
  const auto bytes = [](const KindGeometry& k) {
    return static_cast<double>(uint64_t{k.unit_count} * k.unit_bytes);
  };
  return {bytes(geometry.kinds[0]), bytes(geometry.kinds[1])};
}

// Which part of each kind, of `bytes`, is cached when `fraction` of all bytes is.
KindBytes CachedParts(const KindBytes& bytes, double fraction, std::optional<double> input_share) {
  if (!input_share) return {fraction, fraction};
  const double slots = fraction * (bytes[0] + bytes[1]);
  // What one kind cannot use is the other's.
  const double hidden = std::min(bytes[1], (1 - *input_share) * slots);
  const double input = std::min(bytes[0], slots - hidden);
  return {input / bytes[0], std::min(bytes[1], slots - input) / bytes[1]};
}

void FillSlots(const PackGeometry& geometry, const BudgetRequest& request, uint64_t slot_bytes,
               RegionPlan& plan) {
  const double fraction =
      std::min(1.0, static_cast<double>(slot_bytes) / static_cast<double>(geometry.blocks_bytes()));
  const KindBytes parts = CachedParts(BlockBytes(geometry), fraction, request.input_share);
  for (uint32_t k = 0; k < kUnitKinds; ++k) {
    const uint32_t blocks = geometry.kinds[k].block_count;
    plan.slots_per_layer[k] =
        std::clamp(static_cast<uint32_t>(std::floor(parts[k] * blocks)), 1u, blocks);
  }
}

// What rounding down left over: one more slot per layer where it fits, input units first.
void FillRemainder(const PackIndex& pack, uint64_t budget, RegionPlan& plan) {
  for (uint32_t k = 0; k < kUnitKinds; ++k) {
    while (plan.slots_per_layer[k] < pack.geometry.kinds[k].block_count) {
      ++plan.slots_per_layer[k];
      if (BudgetBytes(pack, plan) > budget) {
        --plan.slots_per_layer[k];
        break;
      }
    }
  }
}

// All static weights, the engine's reserve, the least staging and no slots.
absl::StatusOr<RegionPlan> LeastPlan(const PackIndex& pack, const BudgetRequest& request) {
  RegionPlan plan;
  plan.manifest_bytes = pack.header.manifest_bytes;
  plan.static_bytes = pack.header.static_bytes;
  plan.engine_reserve_bytes = EngineReserve(pack, request);
  ASSIGN_OR_RETURN(plan.staging_bytes, LeastStaging(pack.geometry, request));
  return plan;
}

}  // namespace

uint64_t BudgetBytes(const PackIndex& pack, const RegionPlan& plan) {
  const PackGeometry& geometry = pack.geometry;
  return MakeRegionHeader(geometry, pack.header.uuid, plan).region_bytes +
         SessionBytes(SessionMaxBlocks(geometry)) + plan.engine_reserve_bytes +
         kTableBytesPerBlock * geometry.layer_count * geometry.layer_blocks();
}

uint64_t EngineReserve(const PackIndex& pack, const BudgetRequest& request) {
  if (request.engine_reserve_bytes) return *request.engine_reserve_bytes;
  const uint32_t cores = std::max(1u, std::thread::hardware_concurrency());
  return DefaultEngineReserve(pack, request.engine_threads != 0 ? request.engine_threads : cores);
}

absl::StatusOr<uint64_t> WholeBudget(const PackIndex& pack, const BudgetRequest& request) {
  ASSIGN_OR_RETURN(RegionPlan plan, LeastPlan(pack, request));
  for (uint32_t k = 0; request.cache && k < kUnitKinds; ++k) {
    plan.slots_per_layer[k] = pack.geometry.kinds[k].block_count;
  }
  BudgetRequest whole = request;
  whole.memory_budget_bytes = BudgetBytes(pack, plan);
  plan.staging_bytes = AffordableStaging(whole, plan.staging_bytes, whole.memory_budget_bytes);
  return BudgetBytes(pack, plan);
}

uint64_t LeastStaticBytes(const PackIndex& pack) {
  const auto& tensors = pack.manifest.static_tensors();
  if (tensors.empty() || tensors.rbegin()->row_xxh3().empty()) return pack.header.static_bytes;
  return tensors.rbegin()->offset();
}

uint64_t KvCacheBytes(const store::v1::HyperParameters& hp, uint64_t tokens) {
  constexpr uint64_t kKeysAndValues = 2, kHalfBytes = 2;
  return RoundUp(tokens, kKvPageTokens) * hp.layer_count() * kKeysAndValues * hp.kv_heads() *
         hp.head_size() * kHalfBytes;
}

uint64_t DefaultEngineReserve(const PackIndex& pack, uint32_t threads) {
  const store::v1::HyperParameters& hp = pack.manifest.hyper_parameters();
  const uint32_t context = std::min(hp.context_length(), kDefaultContextTokens);
  const uint32_t sequences =
      SequencesCarried(RoundUp(context, kKvPageTokens) / kKvPageTokens, threads);
  const StepWorkspace workspace = WorkspaceOf(pack.manifest, pack.geometry,
                                              {.prompt_rows = kDefaultPromptRows,
                                               .decode_rows = DecodeRowsMax(sequences),
                                               .threads = threads,
                                               .context_tokens = context});
  return KvCacheBytes(hp, context) + WorkspaceFromReserve(workspace.bytes());
}

absl::StatusOr<RegionPlan> PlanRegion(const PackIndex& pack, const BudgetRequest& request) {
  const PackGeometry& geometry = pack.geometry;
  if (request.input_share && !(*request.input_share >= 0 && *request.input_share <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("input share ", *request.input_share, " is outside [0, 1]"));
  }
  ASSIGN_OR_RETURN(RegionPlan plan, LeastPlan(pack, request));

  if (request.cache_fraction.has_value()) {
    const double fraction = *request.cache_fraction;
    if (!(fraction >= 0 && fraction <= 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("cache fraction ", fraction, " is outside [0, 1]"));
    }
    plan.staging_bytes =
        AffordableStaging(request, plan.staging_bytes, request.memory_budget_bytes);
    // The fraction counts units: block bytes would overstate packs that pad each unit to a block.
    const KindBytes parts = CachedParts(UnitBytes(geometry), fraction, request.input_share);
    for (uint32_t k = 0; k < kUnitKinds; ++k) {
      plan.slots_per_layer[k] =
          static_cast<uint32_t>(std::floor(parts[k] * geometry.kinds[k].block_count));
    }
    return plan;
  }

  const uint64_t budget = request.memory_budget_bytes;
  // Everything, or everything but what may stay on flash: staging takes what that leaves.
  for (const uint64_t static_bytes : {plan.static_bytes, LeastStaticBytes(pack)}) {
    RegionPlan whole = plan;
    whole.static_bytes = static_bytes;
    for (uint32_t k = 0; request.cache && k < kUnitKinds; ++k) {
      whole.slots_per_layer[k] = geometry.kinds[k].block_count;
    }
    const uint64_t bytes = BudgetBytes(pack, whole);
    if (bytes > budget) continue;
    whole.staging_bytes = AffordableStaging(request, plan.staging_bytes, budget - bytes);
    return whole;
  }
  plan.static_bytes = LeastStaticBytes(pack);
  uint64_t fixed = BudgetBytes(pack, plan);
  RegionPlan least = plan;
  if (request.cache)
    std::fill(std::begin(least.slots_per_layer), std::end(least.slots_per_layer), 1u);
  const uint64_t smallest = BudgetBytes(pack, least);
  if (budget < smallest) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "memory budget of ", FormatBytes(budget), " is too small: static weights ",
        FormatBytes(plan.static_bytes), ", engine reserve ", FormatBytes(plan.engine_reserve_bytes),
        ", tables and staging ", FormatBytes(fixed - plan.static_bytes - plan.engine_reserve_bytes),
        request.cache ? ", one slot per layer and kind " : "",
        request.cache ? FormatBytes(SlotSetBytes(geometry)) : "", "; the smallest that works is ",
        (smallest + kKiB - 1) / kKiB, "KiB"));
  }
  plan.staging_bytes = AffordableStaging(request, plan.staging_bytes, budget - smallest);
  if (!request.cache) return plan;
  fixed = BudgetBytes(pack, plan);
  FillSlots(geometry, request, budget - fixed, plan);
  while (BudgetBytes(pack, plan) > budget) {  // The floor of one slot may have overshot.
    uint32_t& slots = plan.slots_per_layer[plan.slots_per_layer[0] > 1 ? 0 : 1];
    --slots;
  }
  FillRemainder(pack, budget, plan);
  return plan;
}

}  // namespace tidegate
