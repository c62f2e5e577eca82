// Escapes of Python string literals, which Jinja's are.
// Thread-safe: a free function.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tidegate::jinja {

// The text of what stands between the quotes. Unknown escapes keep their backslash.
// INVALID_ARGUMENT: \x, \u or \U without its hex digits, or a number that is no code point.
absl::StatusOr<std::string> UnescapeString(std::string_view literal);

}  // namespace tidegate::jinja
