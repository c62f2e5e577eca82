// Ctrl-C as a call: while it lives, the first SIGINT or SIGTERM runs a function on a thread of its
// own; a second one ends the process at once (base/shutdown.h).
#pragma once

#include <signal.h>

#include <atomic>
#include <functional>
#include <thread>

namespace tidegate {

class InterruptGuard {
 public:
  // Create it before other threads start: they inherit the blocked signals.
  explicit InterruptGuard(std::function<void()> on_interrupt);
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool interrupted() const { return signal_ != 0; }
  int signal() const { return signal_; }  // SIGINT or SIGTERM; 0: none has come

 private:
  void Watch();

  const std::function<void()> on_interrupt_;
  sigset_t previous_;
  std::atomic<bool> stop_ = false;
  std::atomic<int> signal_ = 0;
  std::thread watcher_;
};

}  // namespace tidegate
