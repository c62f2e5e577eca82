// The file of --config: "name = value" lines, names as those of flags.
//
//   # a comment, as is everything behind " #"
//   listen = 127.0.0.1:50051
//   model-alias = [small, "with, comma"]     several values
//   keep-region = true                       a flag without a value
//
// Not here: which names there are (base/flags.cc). Stateless, thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tidegate {

struct ConfigEntry {
  std::string name;
  std::vector<std::string> values;  // one, or those of a list in brackets
  int line = 0;                     // from 1
};

// INVALID_ARGUMENT names the line: no "=", a section, a name that was given before, quotes or
// brackets that do not end.
absl::StatusOr<std::vector<ConfigEntry>> ParseConfig(std::string_view text);

// The name among `known` that `name` was probably meant to be, or "" if none is close.
std::string NearestName(std::string_view name, const std::vector<std::string>& known);

// Least number of characters to insert, remove, replace or swap with their neighbour that makes `b`
// of `a` (optimal string alignment).
size_t EditDistance(std::string_view a, std::string_view b);

}  // namespace tidegate
