#include "base/error_reason.h"

#include <optional>

#include "absl/strings/cord.h"
#include "base/check.h"

namespace tidegate {
namespace {

constexpr char kPayload[] = "tidegate/reason";

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

}  // namespace tidegate
