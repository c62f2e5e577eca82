// Filters ("value | name(...)") and tests ("value is name(...)") of templates, by name.
//
// Where Jinja gives a generator (map, select, reverse ...), so do these: true, without a length.
// |safe changes nothing, because nothing is escaped. Thread-safe: free functions; the Runtime
// belongs to one rendering.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "template/runtime.h"

namespace tidegate::jinja {

// An error that names the filter if there is none of that name, or says what it cannot work on.
absl::StatusOr<Value> ApplyFilter(Runtime& runtime, std::string_view name, const Value& input,
                                  const Arguments& arguments);

absl::StatusOr<bool> ApplyTest(Runtime& runtime, std::string_view name, const Value& value,
                               const Arguments& arguments);

bool HasFilter(std::string_view name);
bool HasTest(std::string_view name);

// A filter's input and arguments.
struct FilterCall {
  Runtime& runtime;
  std::string_view name;
  const Value& input;
  const Arguments& arguments;
};
using FilterFunction = absl::StatusOr<Value> (*)(const FilterCall&);

// nullptr if there is none. text_filters.cc, sequence_filters.cc
FilterFunction FindTextFilter(std::string_view name);
FilterFunction FindSequenceFilter(std::string_view name);

// A value for a key: "a.b" and "a.0" look into what a is. For attribute= of filters.
absl::StatusOr<Value> AttributePath(Runtime& runtime, const Value& object, const Value& path);

}  // namespace tidegate::jinja
