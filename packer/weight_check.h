// Refuses weights that are not finite numbers, and rotation factors that are not positive: what
// would spoil every answer, and is a file's fault. Errors are DATA_LOSS and name tensor, place and
// value. Any thread.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "packer/pack_options.h"
#include "packer/pack_plan.h"
#include "packer/source_model.h"

namespace tidegate {

// Rows [first, first + count) of `tensor`, in its own type or as floats.
absl::Status CheckRows(const GgufTensor& tensor, uint64_t first, uint64_t count, GgmlType type,
                       const void* rows);

// Bytes of weights that CheckWeights() reads.
uint64_t WeightBytes(const PackPlan& plan);

// Reads weights that a pack would hold: all, or only the vectors (norms, biases, factors).
absl::Status CheckWeights(const SourceModel& source, const PackPlan& plan, bool only_vectors,
                          const PackProgress& progress);

}  // namespace tidegate
