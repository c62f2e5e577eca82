#include "cli/memory_choice.h"

#include <sys/statvfs.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"

namespace tidegate {
namespace {

constexpr uint64_t kKeptLeast = 256 * kMiB, kKeptMost = 2 * kGiB;

struct Limit {
  uint64_t bytes;
  std::string reason;
};

// What may be given away, and what sets that limit.
Limit LimitOf(uint64_t engine_reserve, const MemoryFacts& facts) {
  Limit limit = {UINT64_MAX, "nothing is known of the machine's memory"};
  const auto lower = [&limit](uint64_t bytes, const std::string& reason) {
    if (bytes < limit.bytes) limit = {bytes, reason};
  };
  const auto lower_by_free = [&](uint64_t free, const char* of) {
    const uint64_t kept = KeptForOthers(free);
    lower(free - kept, absl::StrCat(FormatBytes(free), " are free ", of, ", ", FormatBytes(kept),
                                    " of them stay so"));
  };
  if (facts.available > 0) lower_by_free(facts.available, "on this machine");
  if (facts.group) lower_by_free(facts.group->left, "in the control group");
  if (facts.region_room > 0) {
    // The engine's part of the budget is not in the region.
    lower(facts.region_room + engine_reserve,
          absl::StrCat(facts.region_dir, " has room for ", FormatBytes(facts.region_room),
                       ", more needs a larger tmpfs (mount -o remount,size=..., docker run "
                       "--shm-size)"));
  }
  return limit;
}

double CachedShare(const PackGeometry& geometry, const RegionPlan& plan) {
  double slots = 0, all = 0;
  for (uint32_t k = 0; k < kUnitKinds; ++k) {
    const double block = geometry.kinds[k].block_bytes;
    slots += plan.slots_per_layer[k] * block;
    all += geometry.kinds[k].block_count * block;
  }
  return slots / all;
}

}  // namespace

MemoryFacts ReadMemoryFacts(const std::string& region_dir) {
  MemoryFacts facts;
  facts.available = ReadAvailableMemory();
  facts.group = ReadGroupMemory();
  facts.region_dir = region_dir;
  struct statvfs fs;
  // A tmpfs without a size has no blocks.
  if (::statvfs(region_dir.c_str(), &fs) == 0 && fs.f_blocks > 0) {
    facts.region_room = uint64_t{fs.f_bavail} * fs.f_frsize;
  }
  return facts;
}

uint64_t KeptForOthers(uint64_t free) {
  return std::min(free / 2, std::clamp(free / 8, kKeptLeast, kKeptMost));
}

absl::StatusOr<MemoryChoice> ChooseMemory(const PackIndex& pack, const BudgetRequest& request,
                                          std::optional<uint64_t> given, const MemoryFacts& facts) {
  MemoryChoice choice;
  ASSIGN_OR_RETURN(choice.whole_bytes, WholeBudget(pack, request));
  if (given) {
    choice.budget_bytes = *given;
    choice.reason = "as given";
  } else {
    const Limit limit = LimitOf(EngineReserve(pack, request), facts);
    const bool whole = choice.whole_bytes <= limit.bytes;
    choice.budget_bytes = whole ? choice.whole_bytes : limit.bytes;
    choice.reason = whole ? "the whole model" : limit.reason;
  }
  BudgetRequest wanted = request;
  wanted.memory_budget_bytes = choice.budget_bytes;
  const auto plan = PlanRegion(pack, wanted);
  if (!plan.ok()) {
    return given ? Annotate(plan.status(), "--memory") : Annotate(plan.status(), choice.reason);
  }
  choice.cached = CachedShare(pack.geometry, *plan);
  return choice;
}

}  // namespace tidegate
