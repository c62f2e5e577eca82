// The static tensors of a manifest against the section that holds them. Not here: their bytes, and
// what a model makes of them. Stateless; any thread.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

// Checks that every static tensor lies within a section of `static_bytes`, and that its shape, type
// and size agree. DATA_LOSS names the first that does not.
absl::Status CheckStaticTensors(const store::v1::Manifest& manifest, uint64_t static_bytes);

}  // namespace tidegate
