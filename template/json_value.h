// JSON as values of a template: conversations and tool descriptions. Objects keep their order.
//
// Thread-safe: a free function.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "template/value.h"

namespace tidegate::jinja {

// Strings and keys are marked as `origin`. INVALID_ARGUMENT: no JSON (with the position), nested
// deeper than a template may handle, a number outside 64 bits.
absl::StatusOr<Value> ParseJson(std::string_view text, Origin origin);

}  // namespace tidegate::jinja
