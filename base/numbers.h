// Numbers in text form, as operators, files and settings give them: one parser for whole numbers,
// one for the others. Both refuse what a C library would guess at: a sign that wraps, digits that
// overflow, an empty text, spaces, hexadecimal, octal, "inf", "nan", anything after the number.
//
// Not here: quantities with units (base/units.h), flags (base/flags.h). Stateless, thread-safe.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tidegate {

// Both ends belong to it.
struct IntegerRange {
  uint64_t low = 0;
  uint64_t high = std::numeric_limits<uint64_t>::max();
};

struct RealRange {
  double low = std::numeric_limits<double>::lowest();
  double high = std::numeric_limits<double>::max();
  bool above_low = false;  // `low` itself does not belong to it
};

// Decimal digits and nothing else. INVALID_ARGUMENT names the text and the range.
absl::StatusOr<uint64_t> ParseInteger(std::string_view text, IntegerRange range = {});

// "0.75", "-1", "1e-3". INVALID_ARGUMENT names the text and the range.
absl::StatusOr<double> ParseReal(std::string_view text, RealRange range = {});

}  // namespace tidegate
