// A whole file as a string, for files that people hand us: templates, conversations.
// Thread-safe: a free function.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace tidegate {

// `path`: a file, or "-" for standard input. The errno's code, the path named; INVALID_ARGUMENT for
// more than `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes);

}  // namespace tidegate
