// What + - * / // % ** [] . and slices do, as Python does it.
//
// Thread-safe: free functions; the Runtime belongs to one rendering.
#pragma once

#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "template/runtime.h"

namespace tidegate::jinja {

absl::StatusOr<Value> Arithmetic(Runtime& runtime, std::string_view op, const Value& a,
                                 const Value& b);
absl::StatusOr<Value> Negative(Runtime& runtime, const Value& value);

// object.name: methods come before the keys of a dict. object[key]: the other way round. Undefined
// for what is not there; an error for attributes of undefined values.
absl::StatusOr<Value> GetAttribute(Runtime& runtime, const Value& object, std::string_view name);
absl::StatusOr<Value> GetItem(Runtime& runtime, const Value& object, const Value& key);

// object[begin:end:step]; undefined or None: left out.
absl::StatusOr<Value> Slice(Runtime& runtime, const Value& object, const Value& begin,
                            const Value& end, const Value& step);

// "%s and %d" % values.
absl::StatusOr<Value> FormatPercent(Runtime& runtime, const Text& format,
                                    const std::vector<Value>& values);

}  // namespace tidegate::jinja
