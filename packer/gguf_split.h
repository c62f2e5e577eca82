// Names of models that are split into several GGUF files: PREFIX-00001-of-00003.gguf and so on.
// Source: llama.cpp's gguf-split (its names and the metadata keys split.no, split.count).
// Stateless, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tidegate {

inline constexpr uint64_t kMaxSplitFiles = 1024;

// Paths of all `count` files of the model that `path` is one of, in order. INVALID_ARGUMENT: the
// name or the count cannot be; NOT_FOUND names the files that are missing.
absl::StatusOr<std::vector<std::string>> SplitPaths(const std::string& path, uint64_t count);

}  // namespace tidegate
