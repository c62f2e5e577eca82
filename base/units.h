// Text forms of the quantities that operators type and read: bytes, durations, rates. Pure.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tidegate {

inline constexpr uint64_t kKiB = 1024, kMiB = 1024 * kKiB, kGiB = 1024 * kMiB;

// "4096", "64KiB", "1.5GiB", "1GB" (decimal) -> bytes, at most 2^60. INVALID_ARGUMENT names the
// text.
absl::StatusOr<uint64_t> ParseBytes(std::string_view text);

// "80us", "1.5ms", "2s" -> nanoseconds, at most 100 years.
absl::StatusOr<std::chrono::nanoseconds> ParseDuration(std::string_view text);

// "200k", "1.5M", "300" -> plain number.
absl::StatusOr<double> ParseCount(std::string_view text);

// 1572864 -> "1.50 MiB".
std::string FormatBytes(uint64_t bytes);

// 0.00123 -> "1.23 ms".
std::string FormatSeconds(double seconds);

constexpr uint64_t RoundUp(uint64_t value, uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace tidegate
