// Sizes, and everything that tells architectures apart, from the metadata of a source model: the
// first half of PlanPack() (pack_plan.h). Every key that would change the arithmetic is checked.
// Pure.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "packer/architecture.h"
#include "packer/source_model.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

// The vocabulary is the number of rows of token_embd.weight, 0 if the file has no weights.
// INVALID_ARGUMENT names the key that stands in the way.
absl::StatusOr<store::v1::HyperParameters> HyperParametersOf(const SourceModel& source);
absl::StatusOr<const Architecture*> ArchitectureOf(const SourceModel& source);

// Keys of the configuration of which nothing is known, for the operator (unread_keys.h).
std::vector<std::string> IgnoredKeys(const SourceModel& source);

}  // namespace tidegate
