#include "weightstore/client/patience.h"

#include "absl/strings/str_cat.h"

namespace tidegate {

absl::Status SilentTooLong(std::chrono::nanoseconds silent) {
  return absl::UnavailableError(
      absl::StrCat("the weight store has made no progress for ",
                   std::chrono::duration_cast<std::chrono::seconds>(silent).count(),
                   " s: it is stopped, or its drive does not answer; retry when it is back"));
}

void Patience::Owed() {
  if (!since_) since_ = Clock::now();
}

void Patience::Paid() {
  if (in_doubt_) {
    Progress();
  } else {
    since_.reset();
  }
}

void Patience::Settle() {
  in_doubt_ = false;
  since_.reset();
}

absl::Status Patience::Check() {
  const Clock::time_point now = Clock::now();
  if (now - last_check_ < kLook) return absl::OkStatus();
  last_check_ = now;
  absl::Status status;
  if (on_wait_ != nullptr) {
    status = on_wait_(silent());
  } else if (silent() >= kSilenceMax) {
    status = SilentTooLong(silent());
  }
  if (!status.ok()) in_doubt_ = true;
  return status;
}

std::chrono::nanoseconds Patience::silent() const {
  return since_ ? Clock::now() - *since_ : std::chrono::nanoseconds(0);
}

}  // namespace tidegate
