#include "base/units.h"

#include <algorithm>
#include <optional>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/numbers.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace tidegate {
namespace {

constexpr size_t kShownQuantityBytes = 60;  // longer texts are cut in messages

// Bounds that leave room for sums of several: 2^60 bytes, and a time that still fits behind today's
// date in nanoseconds.
constexpr long double kMaxByteCount = 1152921504606846976.0L;
constexpr long double kMaxNanoseconds = 100 * 365.25L * 24 * 3600 * 1e9L;
constexpr long double kMaxCount = 1e18L;

struct Unit {
  std::string_view suffix;
  long double factor;  // a whole number
};

struct Quantity {
  std::span<const Unit> units;
  long double max;
  std::string_view what, example, max_text;
};

// Whole numbers stay exact: a long double holds every one of 64 bits.
std::optional<long double> Number(std::string_view text) {
  if (text.find('.') == std::string_view::npos) {
    const absl::StatusOr<uint64_t> whole = ParseInteger(text);
    if (whole.ok()) return *whole;
  }
  const absl::StatusOr<double> value = ParseReal(text);
  if (!value.ok()) return std::nullopt;
  return *value;
}

// Splits "<number><suffix>" and scales. What is too large is refused, and what is so small that
// nothing of it is left where only whole ones count (`whole`).
absl::StatusOr<long double> ParseScaled(std::string_view text, const Quantity& quantity,
                                        bool whole) {
  const size_t digits_end = std::min(text.find_first_not_of("0123456789."), text.size());
  const std::optional<long double> number = Number(text.substr(0, digits_end));
  const auto wrong = [&](std::string_view what, std::string_view remedy) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(text, kShownQuantityBytes), std::string(what), std::string(remedy)));
  };
  for (const Unit& unit : quantity.units) {
    if (unit.suffix != text.substr(digits_end) || !number.has_value()) continue;
    const long double value = *number * unit.factor;
    if (value > quantity.max) return wrong(" is too large; at most ", quantity.max_text);
    if (whole && value > 0 && value < 1) return wrong(" is less than the smallest unit", "");
    return value;
  }
  return wrong(absl::StrCat(" is not ", std::string(quantity.what), "; write for example "),
               quantity.example);
}

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(std::string_view text) {
  static constexpr Unit kUnits[] = {{"", 1},
                                    {"B", 1},
                                    {"K", 1024},
                                    {"KiB", 1024},
                                    {"M", 1048576},
                                    {"MiB", 1048576},
                                    {"G", 1073741824},
                                    {"GiB", 1073741824},
                                    {"TiB", 1099511627776},
                                    {"KB", 1e3},
                                    {"kB", 1e3},
                                    {"MB", 1e6},
                                    {"GB", 1e9},
                                    {"TB", 1e12}};
  static constexpr Quantity kBytes = {kUnits, kMaxByteCount, "a number of bytes",
                                      "64KiB, 1.5GiB or 1GB", "1048576TiB"};
  ASSIGN_OR_RETURN(const long double value, ParseScaled(text, kBytes, /*whole=*/true));
  return static_cast<uint64_t>(value);
}

absl::StatusOr<std::chrono::nanoseconds> ParseDuration(std::string_view text) {
  static constexpr Unit kUnits[] = {{"ns", 1},  {"us", 1e3}, {"ms", 1e6},
                                    {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}};
  static constexpr Quantity kTime = {kUnits, kMaxNanoseconds, "a duration", "80us, 1.5ms or 2s",
                                     "100 years (876600h)"};
  ASSIGN_OR_RETURN(const long double value, ParseScaled(text, kTime, /*whole=*/true));
  return std::chrono::nanoseconds(static_cast<int64_t>(value));
}

absl::StatusOr<double> ParseCount(std::string_view text) {
  static constexpr Unit kUnits[] = {{"", 1}, {"k", 1e3}, {"K", 1e3}, {"M", 1e6}};
  static constexpr Quantity kCount = {kUnits, kMaxCount, "a number", "300, 200k or 1.5M",
                                      "1000000000000M"};
  ASSIGN_OR_RETURN(const long double value, ParseScaled(text, kCount, /*whole=*/false));
  return static_cast<double>(value);
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
