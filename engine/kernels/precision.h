// In which arithmetic a request is computed, and its names. Plain data; safe to call from any
// thread.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace tidegate {

enum class Precision : uint32_t {
  kExact = 1,  // f32
  kFast = 2,   // bf16 where this CPU multiplies it faster, else f32
};

std::string_view PrecisionName(Precision precision);  // "fast", "exact"
absl::StatusOr<Precision> ParsePrecision(std::string_view name);

}  // namespace tidegate
