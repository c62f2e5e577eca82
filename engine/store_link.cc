#include "engine/store_link.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "base/status_macros.h"
#include "base/units.h"

namespace tidegate {

using Clock = std::chrono::steady_clock;

StoreLink::StoreLink(const EngineOptions& options, std::optional<store::v1::Profile> profile,
                     ThreadPool* pool, OnWait on_wait)
    : options_(options), profile_(std::move(profile)), pool_(pool), on_wait_(std::move(on_wait)) {}

bool StoreLink::Attach() {
  if (Clock::now() < next_attach_) return false;
  const absl::Status before = std::exchange(error_, TryAttach());
  if (error_.ok()) {
    back_off_ = kBackOffMin;
    LogAttached(*model_, options_);
    return true;
  }
  // An attempt that was given up (the engine stops) is no news.
  if (error_ != before && !absl::IsCancelled(error_)) {
    LogWarning("not attached yet: ", error_.message());
  }
  next_attach_ = Clock::now() + back_off_;
  back_off_ = std::min(back_off_ * 2, kBackOffMax);
  return false;
}

absl::Status StoreLink::TryAttach() {
  auto attached = AttachModel(options_, pool_, on_wait_);
  configuration_error_ =
      absl::IsInvalidArgument(attached.status()) ? attached.status() : absl::OkStatus();
  if (!attached.ok()) return attached.status();
  auto steering = SteeringFor(options_, profile_, *(*attached)->client, (*attached)->model->config);
  configuration_error_ = steering.status();
  if (!steering.ok()) return steering.status();
  model_ = *std::move(attached);
  steering_ = *std::move(steering);
  return absl::OkStatus();
}

void StoreLink::Detach() {
  stalled_ = false;
  steering_.reset();
  model_.reset();
}

void StoreLink::Watch(bool idle) {
  WeightClient& client = *model_->client;
  if (idle || client.in_doubt()) client.Probe();
  const std::chrono::nanoseconds silent = client.silent();
  // What was given up is in doubt until its end has been seen, also while something else moves.
  const bool stalled = silent >= options_.stall_time || (stalled_ && client.in_doubt());
  if (stalled == stalled_) return;
  stalled_ = stalled;
  if (stalled) {
    ++stalls_;
    LogWarning("the weight store has made no progress for ",
               FormatSeconds(std::chrono::duration<double>(silent).count()),
               ": is it stopped, or does its drive hang? Not ready until it goes on");
  } else {
    LogInfo("the weight store makes progress again");
  }
}

absl::Status StoreLink::Hopeless() const {
  const std::chrono::nanoseconds silent = model_->client->silent();
  return silent < options_.stall_limit ? absl::OkStatus() : SilentTooLong(silent);
}

}  // namespace tidegate
