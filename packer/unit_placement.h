// Where units lie in a pack: those that masks select together, together. Any thread.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "packer/pack_plan.h"

namespace tidegate {

// Fills the positions of the manifest's layers by a recording of masks (mask_trace.h): the unit
// most often selected comes first, equals keep the model's order, and experts stay apart. An empty
// path changes nothing: the model's order. Errors are the reader's: no such file, damaged, or
// recorded with a model of another shape.
absl::Status PlaceUnits(const std::string& trace_path, PackPlan& plan);

}  // namespace tidegate
