// Methods of strings, lists and dicts. Those that would change a list or a dict are refused, as
// Hugging Face's immutable sandbox refuses them.
//
// Thread-safe: free functions; the Runtime belongs to one rendering.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "template/runtime.h"

namespace tidegate::jinja {

bool HasMethod(const Value& object, std::string_view name);

// REQUIRES: HasMethod(object, name).
absl::StatusOr<Value> CallMethod(Runtime& runtime, const Value& object, std::string_view name,
                                 const Arguments& arguments);

// Of strings alone, for CallMethod(). string_methods.cc
bool HasStringMethod(std::string_view name);
absl::StatusOr<Value> CallStringMethod(Runtime& runtime, const Text& text, std::string_view name,
                                       const Arguments& arguments);

}  // namespace tidegate::jinja
