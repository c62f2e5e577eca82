// Files that people hand us. ReadFile() is the only way to read a whole one; OpenFile() opens one
// that is read at offsets. Thread-safe: free functions.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace tidegate {

// `path`: a file, a pipe, or "-" for standard input. Errors name the path: the errno's code;
// INVALID_ARGUMENT for a folder, and for more than `max_bytes`, of which no more is kept.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes);

// For reading at offsets: a regular file or a block device. A folder, a pipe or anything else is
// INVALID_ARGUMENT, at once: a pipe that nobody writes does not hold the caller up.
absl::StatusOr<UniqueFd> OpenFile(const std::string& path);

}  // namespace tidegate
