#include "base/error_reason.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/numbers.h"

namespace tidegate {
namespace {

constexpr char kPayload[] = "tidegate/reason";
constexpr char kRetryPayload[] = "tidegate/retry-after-ms";

}  // namespace

absl::Status WithErrorReason(absl::Status status, std::string_view reason) {
  CHECK(!status.ok());
  status.SetPayload(kPayload, absl::Cord(absl::string_view(reason.data(), reason.size())));
  return status;
}

std::string ErrorReason(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  return payload.has_value() ? std::string(*payload) : "";
}

absl::Status WithRetryAfter(absl::Status status, std::chrono::milliseconds delay) {
  CHECK(!status.ok());
  CHECK(delay.count() >= 0 && delay <= std::chrono::hours(24));
  status.SetPayload(kRetryPayload, absl::Cord(absl::StrCat(delay.count())));
  return status;
}

std::optional<std::chrono::milliseconds> RetryAfter(const absl::Status& status) {
  const auto payload = status.GetPayload(kRetryPayload);
  if (!payload.has_value()) return std::nullopt;
  const absl::StatusOr<uint64_t> delay = ParseInteger(std::string(*payload));
  if (!delay.ok()) return std::nullopt;
  return std::chrono::milliseconds(static_cast<int64_t>(*delay));
}

}  // namespace tidegate
