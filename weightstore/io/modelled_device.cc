#include "weightstore/io/modelled_device.h"

#include <sys/timerfd.h>

#include <cerrno>
#include <utility>

#include "base/log.h"
#include "base/status_macros.h"

namespace tidegate {

absl::StatusOr<std::unique_ptr<FlashDevice>> ModelledDevice::Create(FlashFile file,
                                                                    const FlashOptions& options) {
  RETURN_IF_ERROR(ValidateFlashModel(*options.model));
  UniqueFd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!timer.valid()) return absl::ErrnoToStatus(errno, "timerfd_create");
  return std::unique_ptr<FlashDevice>(
      new ModelledDevice(std::move(file), std::move(timer), options));
}

ModelledDevice::ModelledDevice(FlashFile file, UniqueFd timer, const FlashOptions& options)
    : file_(std::move(file)),
      timer_(std::move(timer)),
      schedule_(*options.model),
      bad_from_(options.model->bad_from),
      pool_(options.queue_depth),
      ring_(options.queue_depth) {
  info_.backend = "modelled";
  info_.reason = DescribeFlashModel(*options.model);
  info_.why_not_direct = file_.why_not_direct;
  info_.queue_depth = options.queue_depth;
}

void ModelledDevice::Enqueue(const FlashRead& read) {
  const uint32_t request = pool_.Take(read);
  At(tail_++).request = request;
}

absl::Status ModelledDevice::Submit() {
  if (submitted_ == tail_) return absl::OkStatus();
  const bool was_idle = head_ == submitted_;
  const Clock::time_point now = Clock::now();
  for (; submitted_ != tail_; ++submitted_) {
    Pending& pending = At(submitted_);
    ReadRequest& request = pool_[pending.request];
    request.set_submitted(now);
    pending.due = Clock::time_point(schedule_.Submit(now.time_since_epoch(), request.remaining()));
  }
  return was_idle ? ArmTimer() : absl::OkStatus();
}

void ModelledDevice::Reap(std::vector<FlashCompletion>& completions) {
  if (head_ == submitted_) return;
  const Clock::time_point now = Clock::now();
  if (At(head_).due > now) return;
  for (; head_ != submitted_ && At(head_).due <= now; ++head_) {
    const Pending pending = At(head_);
    ReadRequest& request = pool_[pending.request];
    if (bad_from_ && request.offset() + request.remaining() > *bad_from_) {
      request.Apply(-EIO, file_.direct);
    } else {
      ReadFully(file_.fd.get(), file_.direct, request);
    }
    completions.push_back(request.Complete(pending.due));
    pool_.GiveBack(pending.request);
  }
  const absl::Status armed = ArmTimer();
  if (!armed.ok()) LogError("flash: ", armed.ToString());
}

absl::Status ModelledDevice::ArmTimer() {
  itimerspec when{};  // all zero: disarmed, and not readable
  if (head_ != submitted_) {
    // steady_clock is CLOCK_MONOTONIC in libstdc++ and libc++.
    const int64_t due = At(head_).due.time_since_epoch().count();
    when.it_value.tv_sec = due / 1'000'000'000;
    when.it_value.tv_nsec = due % 1'000'000'000;
  }
  if (::timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &when, nullptr) == 0) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, "timerfd_settime");
}

}  // namespace tidegate
