// How a program ends when SIGTERM, SIGINT or SIGHUP comes: at once, or, where it has announced that
// it can, in order after the first signal and at once after the second one. Ending at once leaves
// none of the files behind that were registered for it. SIGHUP may also ask for new settings.
//
// A handler of our own does all this, because the kernel does not end process 1 (in a container)
// by the default action. It runs on any thread and interrupts system calls there.
#pragma once

#include <atomic>
#include <chrono>
#include <string>
#include <string_view>

namespace tidegate {

// From now on a signal ends the process at once: first statement of main(). A SIGHUP that the
// caller ignores (nohup) stays ignored.
void HandleShutdownSignals();

// While one lives, the first SIGTERM or SIGINT is waited for, and every further one ends the
// process at once. At most one at a time.
class ShutdownSignal {
 public:
  ShutdownSignal();
  ~ShutdownSignal();
  ShutdownSignal(const ShutdownSignal&) = delete;
  ShutdownSignal& operator=(const ShutdownSignal&) = delete;

  // The signal's number; waits until it has come.
  int Wait();
};

// While one lives, SIGHUP is waited for: what may change while the process runs is read again
// (base/reloader.h). One that comes because the process's terminal has gone still ends it at once.
// At most one at a time.
class HangUpSignal {
 public:
  HangUpSignal();
  ~HangUpSignal();
  HangUpSignal(const HangUpSignal&) = delete;
  HangUpSignal& operator=(const HangUpSignal&) = delete;

  // True: a SIGHUP has come since the last call, or comes while this waits; several count as one.
  // False: after StopWaiting(). By one thread.
  bool Wait();
  // By anybody; for good.
  void StopWaiting();

 private:
  std::atomic<bool> stopped_ = false;
};

// Ends the process as a signal that is not waited for does.
[[noreturn]] void EndBySignal(int number);

// The name of a file, or of a folder that is empty by then, that disappears when a signal or
// EndProcessAt() ends the process. The owner removes it otherwise; the registration ends with the
// object. Thread-compatible.
class RemovedAtEnd {
 public:
  RemovedAtEnd() = default;
  // Removes `path`; relative ones count from the folder of work at the end.
  explicit RemovedAtEnd(std::string_view path);
  RemovedAtEnd(RemovedAtEnd&& other) noexcept : RemovedAtEnd() { *this = std::move(other); }
  RemovedAtEnd& operator=(RemovedAtEnd&& other) noexcept;
  ~RemovedAtEnd();

 private:
  int slot_ = -1;  // of a table that the handler can read; -1: nothing is registered
};

// Exit code of EndProcessAt().
inline constexpr int kHardEndExitCode = 3;

// The hard end of an orderly stop: if the process still runs at `when`, one log line says `why` and
// the process ends with kHardEndExitCode, whatever its other threads wait for.
void EndProcessAt(std::chrono::steady_clock::time_point when, std::string why);

}  // namespace tidegate
