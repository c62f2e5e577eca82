#include "measure/serving_plan.h"

#include <algorithm>

#include "base/read_file.h"
#include "base/status_macros.h"
#include "engine/generation.h"
#include "engine/pruning.h"
#include "measure/local_model.h"
#include "packer/pack_plan.h"
#include "packer/source_model.h"

namespace tidegate {
namespace {

// Norms, masks, leases and waiting for threads beside the kernels: measured with `tidegate bench
// --profile` (docs/plan.md).
constexpr double kOtherShare = 0.05;
constexpr double kLayerSeconds = 12e-6;

// The hit rates of dip_ca, fitted to what `tidegate bench` counts (docs/plan.md). A mask takes its
// largest scores wherever they lie; the cache holds more of them than chance would, the fewer they
// are.
constexpr double kFavouredSlope = 1.2, kFavouredFrom = 0.75, kFavouredMost = 0.5;
// Where blocks have several units, one that is not resident is read for the largest of them: so
// many more blocks than units are read.
constexpr double kBlockFactor = 1.7;

const char kEmbedding[] = "token_embd.weight", kHead[] = "output.weight";

bool HasHead(const store::v1::Manifest& manifest) {
  return std::any_of(manifest.static_tensors().begin(), manifest.static_tensors().end(),
                     [](const auto& tensor) { return tensor.name() == kHead; });
}

// The part of a layer's units that a token can want: of experts, those that the router chooses.
double UsedExperts(const store::v1::HyperParameters& hp) {
  if (hp.expert_count() == 0) return 1;
  return static_cast<double>(hp.experts_used() + hp.shared_experts()) / ExpertSlots(hp);
}

double KindBytes(const PackGeometry& geometry, uint32_t kind) {
  const KindGeometry& k = geometry.kinds[kind];
  return static_cast<double>(uint64_t{k.block_count} * k.block_bytes) * geometry.layer_count;
}

}  // namespace

absl::StatusOr<PackIndex> PlannedPack(const std::string& model, UnitEncoding units) {
  if (StartsAsPack(model)) {
    ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(model));
    return ReadPackIndex(fd.get(), model);
  }
  ASSIGN_OR_RETURN(const SourceModel source, SourceModel::Open(model));
  PackOptions options;
  options.units = units;
  ASSIGN_OR_RETURN(PackPlan plan, PlanPack(source, options));
  PackIndex index = {};
  // Where the packer gives each row of an embedding a checksum, a store may leave it on flash.
  auto& tensors = *plan.manifest.mutable_static_tensors();
  if (!tensors.empty() && tensors.rbegin()->name() == kEmbedding && HasHead(plan.manifest)) {
    tensors.rbegin()->mutable_row_xxh3()->Resize(static_cast<int>(tensors.rbegin()->rows()), 0);
  }
  index.header.static_bytes = plan.static_bytes;
  index.header.manifest_bytes = plan.manifest.ByteSizeLong();
  index.manifest = std::move(plan.manifest);
  index.geometry = plan.geometry;
  return index;
}

absl::StatusOr<BudgetSplit> SplitBudget(const PackIndex& pack, const BudgetRequest& request) {
  ASSIGN_OR_RETURN(const RegionPlan plan, PlanRegion(pack, request));
  BudgetSplit split;
  split.budget = request.memory_budget_bytes;
  split.used = BudgetBytes(pack, plan);
  split.static_bytes = plan.static_bytes;
  split.static_on_flash_bytes = pack.header.static_bytes - plan.static_bytes;
  split.lease_staging_bytes = plan.staging_bytes;
  split.staging_bytes = plan.staging_bytes * kMaxSessions * kLeasesPerSession;
  split.engine_reserve_bytes = plan.engine_reserve_bytes;
  for (uint32_t k = 0; k < kUnitKinds; ++k) {
    const KindGeometry& kind = pack.geometry.kinds[k];
    split.slot_bytes +=
        uint64_t{plan.slots_per_layer[k]} * kind.block_bytes * pack.geometry.layer_count;
    split.cached[k] = static_cast<double>(plan.slots_per_layer[k]) / kind.block_count;
  }
  split.table_bytes = split.used - split.static_bytes - split.slot_bytes - split.staging_bytes -
                      split.engine_reserve_bytes;
  return split;
}

uint64_t MultipliedBytes(const store::v1::Manifest& manifest) {
  const bool head = HasHead(manifest);
  uint64_t bytes = 0;
  for (const store::v1::StaticTensor& tensor : manifest.static_tensors()) {
    if (tensor.rows() <= 1 || (head && tensor.name() == kEmbedding)) continue;
    bytes += tensor.bytes();
  }
  return bytes;
}

double MissedShare(double cached, double kept, double density, uint32_t units_per_block) {
  if (density >= 1) return 1 - cached;
  if (cached >= 1) return 0;
  const double largest = kProtectedShare * kept;  // taken wherever they are
  if (units_per_block > 1) {
    return std::min(kept, std::min(1.0, kBlockFactor * largest) * (1 - cached));
  }
  const double favoured =
      std::clamp(kFavouredSlope * (kFavouredFrom - density), 0.0, kFavouredMost);
  const double most = std::min(1.0, cached / largest);  // a cache of nothing but the largest
  const double largest_hits = cached + favoured * (most - cached);
  // The rest of the mask takes what is resident and left over.
  const double rest = (1 - kProtectedShare) * kept;
  const double rest_hits = std::min(1.0, cached * (1 - largest) / rest);
  return largest * (1 - largest_hits) + rest * (1 - rest_hits);
}

TokenCost CostOfToken(const PackIndex& pack, const BudgetSplit& split, const MachineSpeeds& speeds,
                      double density) {
  const DensitySplit keep = density >= 1 ? DensitySplit() : SplitDensity(density);
  const double kept[kUnitKinds] = {keep.keep_input, keep.keep_hidden};
  const double used = UsedExperts(pack.manifest.hyper_parameters());
  const double layers = pack.geometry.layer_count;
  TokenCost cost;
  cost.compute_seconds = kLayerSeconds * layers;
  double kernels = static_cast<double>(MultipliedBytes(pack.manifest)) / speeds.static_rate;
  for (uint32_t k = 0; k < kUnitKinds; ++k) {
    const double bytes = used * KindBytes(pack.geometry, k);
    kernels += kept[k] * bytes / speeds.unit_rate[k];
    const double missed =
        MissedShare(split.cached[k], kept[k], density, pack.geometry.kinds[k].units_per_block);
    if (missed <= 0) continue;
    cost.flash_bytes += missed * bytes;
    cost.io_seconds += missed * bytes / (density >= 1 ? speeds.stream_rate : speeds.block_rate[k]) +
                       layers * speeds.read_seconds;
  }
  cost.compute_seconds += (1 + kOtherShare) * kernels;
  const auto [shorter, longer] = std::minmax(cost.io_seconds, cost.compute_seconds);
  cost.tokens_per_second = 1 / (longer + (1 - speeds.overlap) * shorter);
  return cost;
}

}  // namespace tidegate
