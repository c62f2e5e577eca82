#include "base/numbers.h"

#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/text.h"

namespace tidegate {
namespace {

constexpr size_t kShownNumberBytes = 60;  // longer texts are cut in messages

absl::Status NumberRefusal(std::string_view text, std::string_view what, std::string_view range) {
  return absl::InvalidArgumentError(absl::StrCat(Quoted(text, kShownNumberBytes), " is not a ",
                                                 std::string(what), " ", std::string(range)));
}

std::string RangeText(RealRange range) {
  const bool has_low = range.low > std::numeric_limits<float>::lowest();
  const bool has_high = range.high < std::numeric_limits<float>::max();
  const char* from = range.above_low ? "above " : "from ";
  if (has_low && has_high) {
    return absl::StrCat(from, range.low, range.above_low ? " up to " : " to ", range.high);
  }
  if (has_low)
    return range.above_low ? absl::StrCat("above ", range.low)
                           : absl::StrCat("of ", range.low, " or more");
  return has_high ? absl::StrCat("of ", range.high, " or less") : "such as 0.5";
}

}  // namespace

absl::StatusOr<uint64_t> ParseInteger(std::string_view text, IntegerRange range) {
  uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  const bool whole = !text.empty() && error == std::errc() && stop == end;
  if (whole && value >= range.low && value <= range.high) return value;
  return NumberRefusal(text, "whole number", absl::StrCat("from ", range.low, " to ", range.high));
}

absl::StatusOr<double> ParseReal(std::string_view text, RealRange range) {
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  const bool whole = !text.empty() && error == std::errc() && stop == end && std::isfinite(value);
  const bool above = range.above_low ? value > range.low : value >= range.low;
  if (whole && above && value <= range.high) return value;
  return NumberRefusal(text, "number", RangeText(range));
}

}  // namespace tidegate
