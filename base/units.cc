#include "base/units.h"

#include <cmath>
#include <limits>
#include <span>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tidegate {
namespace {

struct Unit {
  std::string_view suffix;
  double factor;
};

// Splits "<number><suffix>" and scales. Only finite, non-negative numbers pass.
absl::StatusOr<double> ParseScaled(std::string_view text, std::span<const Unit> units,
                                   std::string_view what, std::string_view example) {
  const size_t digits_end = text.find_first_not_of("0123456789.");
  const std::string_view number = text.substr(0, digits_end);
  const std::string_view suffix =
      digits_end == std::string_view::npos ? std::string_view() : text.substr(digits_end);
  double value = 0;
  if (!number.empty() &&
      absl::SimpleAtod(absl::string_view(number.data(), number.size()), &value) &&
      std::isfinite(value)) {
    for (const Unit& unit : units) {
      if (unit.suffix == suffix) return value * unit.factor;
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("'", std::string(text), "' is not ",
                                                 std::string(what), "; write for example ",
                                                 std::string(example)));
}

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(std::string_view text) {
  static constexpr Unit kUnits[] = {{"", 1},
                                    {"B", 1},
                                    {"K", 1024},
                                    {"KiB", 1024},
                                    {"M", 1048576},
                                    {"MiB", 1048576},
                                    {"G", 1073741824.0},
                                    {"GiB", 1073741824.0},
                                    {"TiB", 1099511627776.0},
                                    {"KB", 1e3},
                                    {"kB", 1e3},
                                    {"MB", 1e6},
                                    {"GB", 1e9},
                                    {"TB", 1e12}};
  auto value = ParseScaled(text, kUnits, "a number of bytes", "64KiB, 1.5GiB or 1GB");
  if (!value.ok()) return value.status();
  if (*value > 9.2e18) {
    return absl::InvalidArgumentError(absl::StrCat("'", std::string(text), "' bytes is too large"));
  }
  return static_cast<uint64_t>(*value);
}

absl::StatusOr<std::chrono::nanoseconds> ParseDuration(std::string_view text) {
  static constexpr Unit kUnits[] = {{"ns", 1},  {"us", 1e3}, {"ms", 1e6},
                                    {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}};
  auto value = ParseScaled(text, kUnits, "a duration", "80us, 1.5ms or 2s");
  if (!value.ok()) return value.status();
  if (*value > 9.2e18) {
    return absl::InvalidArgumentError(absl::StrCat("'", std::string(text), "' is too long"));
  }
  return std::chrono::nanoseconds(static_cast<int64_t>(*value));
}

absl::StatusOr<double> ParseCount(std::string_view text) {
  static constexpr Unit kUnits[] = {{"", 1}, {"k", 1e3}, {"K", 1e3}, {"M", 1e6}};
  return ParseScaled(text, kUnits, "a number", "300, 200k or 1.5M");
}

std::string FormatBytes(uint64_t bytes) {
  if (bytes < kKiB) return absl::StrFormat("%d B", bytes);
  if (bytes < kMiB) return absl::StrFormat("%.1f KiB", static_cast<double>(bytes) / kKiB);
  if (bytes < kGiB) return absl::StrFormat("%.2f MiB", static_cast<double>(bytes) / kMiB);
  return absl::StrFormat("%.2f GiB", static_cast<double>(bytes) / kGiB);
}

std::string FormatSeconds(double seconds) {
  if (seconds < 1e-3) return absl::StrFormat("%.0f us", seconds * 1e6);
  if (seconds < 1) return absl::StrFormat("%.1f ms", seconds * 1e3);
  if (seconds < 120) return absl::StrFormat("%.1f s", seconds);
  return absl::StrFormat("%d min %02d s", static_cast<int>(seconds) / 60,
                         static_cast<int>(seconds) % 60);
}

}  // namespace tidegate
