// "1GB/s" as a flag's value. Pure.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"

namespace tidegate {

// Bytes per second, above 0. INVALID_ARGUMENT names the flag and shows the form.
absl::StatusOr<double> ParseByteRate(std::string_view flag, std::string_view text);

}  // namespace tidegate
