// How much memory a pack gets where nobody says it: what is free, less what everything else needs,
// and no more than the whole model takes. Pure but for ReadMemoryFacts(), which any thread may
// call.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "base/memory_limit.h"
#include "weightstore/budget.h"

namespace tidegate {

struct MemoryFacts {
  uint64_t available = 0;                 // of the machine, as ReadAvailableMemory(); 0: not known
  std::optional<GroupMemory> group = {};  // of the control group that has the least left
  uint64_t region_room = 0;               // free bytes of the tmpfs of the region; 0: not known
  std::string region_dir = {};
};

// Of this moment. `region_dir`: the folder in which the store will make its region.
MemoryFacts ReadMemoryFacts(const std::string& region_dir);

struct MemoryChoice {
  uint64_t budget_bytes = 0;  // --memory-budget of the store
  uint64_t whole_bytes = 0;   // the budget that would hold everything
  double cached = 0;          // part of the streamed weights that have a place in memory, [0, 1]
  std::string reason;         // why it is so much, for a person: "as given", "the whole model", ...
};

// What is kept of `free` bytes for what lies outside of the budget: both programs' own memory
// (ARCHITECTURE.md, "Beyond the budget"), and the rest of the machine. An eighth, at least 256 MiB,
// at most 2 GiB, and never more than half.
uint64_t KeptForOthers(uint64_t free);

// `given`: the budget that a person wants; it is only checked. `request` says how the store will
// divide it; its budget is not looked at. RESOURCE_EXHAUSTED: too little; the message says how much
// there is, why, and what the pack needs at least.
absl::StatusOr<MemoryChoice> ChooseMemory(const PackIndex& pack, const BudgetRequest& request,
                                          std::optional<uint64_t> given, const MemoryFacts& facts);

}  // namespace tidegate
