// The machine-readable reason of an error: a word such as "NUMBERS_NOT_FINITE" that travels inside
// absl::Status from where the error is found to where it is told, across layers that know no gRPC.
// The server makes it ErrorInfo.reason. Not a message for people. When to try again travels the
// same way. Stateless; any thread.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tidegate {

// Keys, values or logits of a model are not finite numbers.
inline constexpr char kNumbersNotFinite[] = "NUMBERS_NOT_FINITE";

// A client's requests take its whole part of the places to wait.
inline constexpr char kQueueShareLimit[] = "QUEUE_SHARE_LIMIT";

// The same error with this reason in place of the one it had. REQUIRES: not OK.
absl::Status WithErrorReason(absl::Status status, std::string_view reason);

// "" if the error has none.
std::string ErrorReason(const absl::Status& status);

// The same error, with the time after which trying again helps. REQUIRES: not OK; 0 to a day.
absl::Status WithRetryAfter(absl::Status status, std::chrono::milliseconds delay);

// nullopt if the error does not say.
std::optional<std::chrono::milliseconds> RetryAfter(const absl::Status& status);

}  // namespace tidegate
