// Makes a pack (pack_format.h) from a model of a supported architecture (architecture.h). Any
// thread, for a file of its own; uses helpers inside.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "packer/pack_options.h"
#include "packer/source_model.h"
#include "proto/store/v1/manifest.pb.h"
#include "proto/store/v1/pack_format.h"

namespace tidegate {

struct PackReport {
  PackUuid uuid;
  uint64_t file_bytes = 0, static_bytes = 0, block_bytes = 0;
  double relative_rms_error[3] = {0, 0, 0};  // gate, up, down over all layers
  bool requantised = false;  // the source's MLP matrices were quantised along another axis
};

// Writes `out_path` through a temporary name, fsync and rename: a half pack is never seen under its
// name, and a failed run leaves nothing behind. Working memory stays below options.memory_bytes
// plus 256 MiB. Errors: INVALID_ARGUMENT (architecture, tensor type or shape not supported, named).
absl::StatusOr<PackReport> WritePack(const SourceModel& source, const std::string& out_path,
                                     const PackOptions& options, const PackProgress& progress);

}  // namespace tidegate
