// How long an engine waits for its store: since when the store owes something without a sign of
// life, and whether a wait may go on. Knows clocks only: what is waited for, its users know.
// Owned by the client's thread.
#pragma once

#include <chrono>
#include <functional>
#include <optional>

#include "absl/status/status.h"

namespace tidegate {

// Called about every 20 ms by everything that waits for the store or for its drive. `silent`: how
// long the store has owed something and done nothing. What is not OK ends the wait with it.
using OnWait = std::function<absl::Status(std::chrono::nanoseconds silent)>;

// How long waits last where nobody says otherwise: no drive that works is silent for so long.
inline constexpr std::chrono::seconds kSilenceMax{60};
// UNAVAILABLE, for waits that end because of it.
absl::Status SilentTooLong(std::chrono::nanoseconds silent);

class Patience {
 public:
  using Clock = std::chrono::steady_clock;
  // How long a wait may sleep before it looks here again.
  static constexpr std::chrono::milliseconds kLook{20};

  // Without on_wait, waits end with SilentTooLong() after kSilenceMax.
  explicit Patience(OnWait on_wait = nullptr) : on_wait_(std::move(on_wait)) {}

  // Something is waited for: owed since now, if not since earlier.
  void Owed();
  // A sign of life: owed since now.
  void Progress() { since_ = Clock::now(); }
  // A wait has its end. What an earlier wait gave up on stays in doubt.
  void Paid();
  // Nothing is owed any more, and nothing is in doubt.
  void Settle();
  // Whether a wait may go on. If not, what it waited for is in doubt.
  absl::Status Check();

  std::chrono::nanoseconds silent() const;
  // A wait was given up, and nothing has shown since that it would have ended.
  bool in_doubt() const { return in_doubt_; }

 private:
  const OnWait on_wait_;
  std::optional<Clock::time_point> since_;  // unset: nothing is owed
  Clock::time_point last_check_;
  bool in_doubt_ = false;
};

}  // namespace tidegate
