// What a memory budget would hold of a model, and how fast it would then be: arithmetic over a
// pack's sizes and measured speeds. docs/plan.md states the formulas and how near they come.
// Not here: measuring (machine_speeds.h). Pure, but for PlannedPack(), which reads heads of files.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "proto/store/v1/pack_format.h"
#include "proto/store/v1/unit_codec.h"
#include "weightstore/budget.h"

namespace tidegate {

// The index of a pack; of what can be packed (GGUF file, Hugging Face folder) the one that a pack
// with these units would have, without checksums and offsets. Reads no weights.
absl::StatusOr<PackIndex> PlannedPack(const std::string& model, UnitEncoding units);

// Bytes of the budget, by what they hold. Their sum is `used`, at most the budget.
struct BudgetSplit {
  uint64_t budget = 0, used = 0;
  uint64_t static_bytes = 0;           // weights that every token needs
  uint64_t static_on_flash_bytes = 0;  // not of the budget: an embedding that finds no room
  uint64_t slot_bytes = 0;
  uint64_t staging_bytes = 0;        // of all leases
  uint64_t lease_staging_bytes = 0;  // of one
  uint64_t table_bytes = 0;          // manifest, residency, sessions, the store's own
  uint64_t engine_reserve_bytes = 0;
  double cached[kUnitKinds] = {0, 0};  // share of a layer's blocks that have a slot, [0, 1]
};

// Errors as PlanRegion().
absl::StatusOr<BudgetSplit> SplitBudget(const PackIndex& pack, const BudgetRequest& request);

// Rates in bytes per second, of weights as they are stored.
struct MachineSpeeds {
  double unit_rate[kUnitKinds] = {0, 0};   // columns added, on all threads
  double static_rate = 0;                  // rows multiplied
  double block_rate[kUnitKinds] = {0, 0};  // single blocks of flash at random places
  double stream_rate = 0;                  // neighbouring blocks in one read
  double read_seconds = 0;                 // one block while nothing else is out
  // Of two tasks at a time, reading and adding: the share of the shorter one that is hidden behind
  // the longer, [0, 1].
  double overlap = 1;
};

// What a token of one stream costs, in a warm store and a short context.
struct TokenCost {
  double flash_bytes = 0;
  double io_seconds = 0, compute_seconds = 0;
  double tokens_per_second = 0;
};

// density: 1 for dense, less for dip_ca with the default gamma and protected share. (0, 1].
TokenCost CostOfToken(const PackIndex& pack, const BudgetSplit& split, const MachineSpeeds& speeds,
                      double density);

// Share of a kind's units that a token reads from flash when a part `cached` of the blocks has
// slots and the mask keeps a part `kept` of the units. kept 1: all that is not cached.
double MissedShare(double cached, double kept, double density, uint32_t units_per_block);

// Bytes of static matrices that a token multiplies with: all but an embedding that is no head.
uint64_t MultipliedBytes(const store::v1::Manifest& manifest);

}  // namespace tidegate
