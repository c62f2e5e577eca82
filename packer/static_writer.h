// Writes the static tensors of a pack: those that stay in memory whole. One call a run, on a thread
// of its own beside the layers; uses helpers inside.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "packer/merged_source.h"
#include "packer/pack_plan.h"
#include "packer/pack_run.h"

namespace tidegate {

// Writes the statics of `plan` into `fd` from `static_offset` on, and their checksums into its
// manifest. A tensor whose type is kept is copied, others become floats. Nothing else of the
// manifest is touched. Errors: those of reading and writing; DATA_LOSS where a weight is not
// finite; CANCELLED once the run has failed.
absl::Status WriteStatics(const MergedSource& source, uint64_t static_offset, int fd,
                          PackPlan& plan, PackRun& run);

}  // namespace tidegate
