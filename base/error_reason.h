// The machine-readable reason of an error: a word such as "NUMBERS_NOT_FINITE" that travels inside
// absl::Status from where the error is found to where it is told, across layers that know no gRPC.
// The server makes it ErrorInfo.reason. Not a message for people. Stateless; any thread.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tidegate {

// Keys, values or logits of a model are not finite numbers.
inline constexpr char kNumbersNotFinite[] = "NUMBERS_NOT_FINITE";

// The same error with this reason in place of the one it had. REQUIRES: not OK.
absl::Status WithErrorReason(absl::Status status, std::string_view reason);

// "" if the error has none.
std::string ErrorReason(const absl::Status& status);

}  // namespace tidegate
