// The engine's side of the attach protocol (control.proto): connects, asks, receives the answer
// with its descriptors. What they hold is not looked at here. Any thread; waits for at most some
// seconds, and no longer than `patience` says.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "weightstore/client/patience.h"

namespace tidegate {

struct AttachAnswer {
  UniqueFd socket;  // its end tells that the store has gone
  UniqueFd region, session, kick, pack;
  uint64_t region_bytes = 0, session_bytes = 0;  // as announced
};

// Errors: UNAVAILABLE no store listens (yet), or it does not answer: retry; FAILED_PRECONDITION it
// is another version or no store; PERMISSION_DENIED, RESOURCE_EXHAUSTED as the store answers;
// INVALID_ARGUMENT only for the path; those of `patience`.
absl::StatusOr<AttachAnswer> RequestAttach(const std::string& socket_path,
                                           const std::string& engine_name, Patience& patience);

}  // namespace tidegate
