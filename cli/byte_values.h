// Values of flags that are bytes: "1GB/s", and "4GiB" or "50%" of something. Pure.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace tidegate {

// Bytes per second, above 0. INVALID_ARGUMENT names the flag and shows the form.
absl::StatusOr<double> ParseByteRate(std::string_view flag, std::string_view text);

// Bytes, or a percentage of `whole`: above 0, at most 1000 %. INVALID_ARGUMENT names the flag.
absl::StatusOr<uint64_t> ParseByteShare(std::string_view flag, std::string_view text,
                                        uint64_t whole);

}  // namespace tidegate
