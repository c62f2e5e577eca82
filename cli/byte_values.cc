#include "cli/byte_values.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "base/numbers.h"
#include "base/status_macros.h"
#include "base/units.h"

namespace tidegate {

absl::StatusOr<double> ParseByteRate(std::string_view flag, std::string_view text) {
  const std::string name(flag);
  if (!text.ends_with("/s")) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": '", std::string(text), "' is not a rate; write for example 1GB/s"));
  }
  const absl::StatusOr<uint64_t> rate = ParseBytes(text.substr(0, text.size() - 2));
  if (!rate.ok()) return Annotate(rate.status(), name);
  if (*rate == 0) return absl::InvalidArgumentError(absl::StrCat(name, " must be above 0"));
  return static_cast<double>(*rate);
}

absl::StatusOr<uint64_t> ParseByteShare(std::string_view flag, std::string_view text,
                                        uint64_t whole) {
  if (!text.ends_with('%')) {
    const absl::StatusOr<uint64_t> bytes = ParseBytes(text);
    return bytes.ok() ? bytes : Annotate(bytes.status(), flag);
  }
  text.remove_suffix(1);
  const auto percent = ParseReal(text, {.low = 0, .high = 1000, .above_low = true});
  if (!percent.ok())
    return Annotate(percent.status(), absl::StrCat(std::string(flag), ", percent"));
  return static_cast<uint64_t>(static_cast<double>(whole) * *percent / 100);
}

}  // namespace tidegate
