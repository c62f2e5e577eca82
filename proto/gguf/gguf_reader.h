// Reads one GGUF file, which may be a part of a model: metadata and tensor directory. Any thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "proto/gguf/gguf_parts.h"

namespace tidegate {

// NOT_FOUND, INVALID_ARGUMENT (not GGUF, bad version), DATA_LOSS (truncated, damaged).
absl::StatusOr<ModelParts> ReadGguf(const std::string& path);

}  // namespace tidegate
