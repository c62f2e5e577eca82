#include "packer/unit_placement.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "base/status_macros.h"
#include "proto/store/v1/mask_trace.h"

namespace tidegate {

absl::Status PlaceUnits(const std::string& trace_path, PackPlan& plan) {
  if (trace_path.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const UnitUses trace, CountUnitUses(trace_path, ShapeOf(plan.geometry)));
  for (uint32_t layer = 0; layer < plan.geometry.layer_count; ++layer) {
    store::v1::LayerUnits& units = *plan.manifest.mutable_layers(static_cast<int>(layer));
    const auto place = [&](UnitKind kind, store::v1::KindUnits& placed) {
      const std::vector<uint32_t>& uses = trace.uses[static_cast<uint32_t>(kind)][layer];
      std::vector<uint32_t> unit_at(uses.size());
      std::iota(unit_at.begin(), unit_at.end(), 0u);
      const size_t part = unit_at.size() / ExpertSlots(plan.manifest.hyper_parameters());
      for (auto first = unit_at.begin(); first != unit_at.end();
           first += static_cast<ptrdiff_t>(part)) {
        std::stable_sort(first, first + static_cast<ptrdiff_t>(part),
                         [&](uint32_t a, uint32_t b) { return uses[a] > uses[b]; });
      }
      placed.mutable_positions()->Resize(static_cast<int>(unit_at.size()), 0);
      for (uint32_t p = 0; p < unit_at.size(); ++p) {
        placed.set_positions(static_cast<int>(unit_at[p]), p);
      }
    };
    place(UnitKind::kInput, *units.mutable_input());
    place(UnitKind::kHidden, *units.mutable_hidden());
  }
  return absl::OkStatus();
}

}  // namespace tidegate
