// The engine's connection to its store: attaches, attaches again after a loss (back-off 50 ms .. 2
// s), and notices a store that hangs without dying. Owned by the decode thread.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "engine/attached_model.h"
#include "engine/engine_options.h"
#include "engine/steering.h"
#include "proto/store/v1/profile.h"

namespace tidegate {

class StoreLink {
 public:
  static constexpr std::chrono::milliseconds kBackOffMin{50}, kBackOffMax{2000};

  // profile: of the options; checked. on_wait: of every wait for the store; it may call Watch().
  // `options` and `pool` are not owned.
  StoreLink(const EngineOptions& options, std::optional<store::v1::Profile> profile,
            ThreadPool* pool, OnWait on_wait);

  // Attaches, if the back-off allows a new attempt; else false, and error() says why not.
  bool Attach();
  void Detach();
  bool attached() const { return model_ != nullptr; }
  // Why the last attempt failed; OK if it worked. `configuration`: of options or adapters, which a
  // store that comes back does not mend.
  const absl::Status& error() const { return error_; }
  const absl::Status& configuration_error() const { return configuration_error_; }

  // All below REQUIRE attached().
  const AttachedModel& model() const { return *model_; }
  Steering* steering() { return steering_ ? &*steering_ : nullptr; }
  bool connected() const { return model_->client->connected(); }

  // Looks for signs of life and says in the log when the store has begun or ended to be silent.
  // Call it every so often; `idle`: nothing waits for the store at this moment.
  void Watch(bool idle);
  // No progress for --stall-time, and none since.
  bool stalled() const { return stalled_; }
  // How often that has begun.
  uint64_t stalls() const { return stalls_; }
  // The store has been silent for too long: UNAVAILABLE.
  absl::Status Hopeless() const;

 private:
  absl::Status TryAttach();

  const EngineOptions& options_;
  const std::optional<store::v1::Profile> profile_;
  ThreadPool* const pool_;
  const OnWait on_wait_;
  std::unique_ptr<AttachedModel> model_;
  std::optional<Steering> steering_;
  absl::Status error_, configuration_error_;
  std::chrono::milliseconds back_off_ = kBackOffMin;
  std::chrono::steady_clock::time_point next_attach_;
  bool stalled_ = false;
  uint64_t stalls_ = 0;
};

}  // namespace tidegate
