#include "cli/interrupt.h"

#include <utility>

#include "base/shutdown.h"

namespace tidegate {
namespace {

sigset_t InterruptSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

// How long a guard that is not needed any more may take to notice.
constexpr timespec kPoll = {0, 20 * 1000 * 1000};

}  // namespace

InterruptGuard::InterruptGuard(std::function<void()> on_interrupt)
    : on_interrupt_(std::move(on_interrupt)) {
  const sigset_t set = InterruptSet();
  pthread_sigmask(SIG_BLOCK, &set, &previous_);
  watcher_ = std::thread([this] { Watch(); });
}

InterruptGuard::~InterruptGuard() {
  stop_ = true;
  watcher_.join();
  pthread_sigmask(SIG_SETMASK, &previous_, nullptr);
}

void InterruptGuard::Watch() {
  const sigset_t set = InterruptSet();
  while (!stop_) {
    const int signal = sigtimedwait(&set, nullptr, &kPoll);
    if (signal <= 0) continue;
    if (signal_ != 0) EndBySignal(signal);  // Whatever the first one did has not ended it.
    signal_ = signal;
    on_interrupt_();
  }
}

}  // namespace tidegate
