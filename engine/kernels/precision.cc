#include "engine/kernels/precision.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tidegate {

std::string_view PrecisionName(Precision precision) {
  return precision == Precision::kFast ? "fast" : "exact";
}

absl::StatusOr<Precision> ParsePrecision(std::string_view name) {
  for (const Precision precision : {Precision::kFast, Precision::kExact}) {
    if (PrecisionName(precision) == name) return precision;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown precision '", std::string(name), "'; use fast or exact"));
}

}  // namespace tidegate
