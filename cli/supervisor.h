// Runs programs that depend on each other as children: starts them in order, each when the one
// before is ready; starts again, alone, what ends; and stops them in reverse order.
//
// A program that ends before it was ever ready is not started again: what it said when it started,
// about its flags, its files or its memory, would be the same the next time. Later ends are
// RestartRule's. Only ends count: a program that hangs is not noticed here.
// Run() belongs to one thread, which starts the children and must live as long as they do;
// RequestStop() and RequestReload()
// may be called by anybody.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "base/subprocess.h"
#include "cli/restart_rule.h"

namespace tidegate {

struct SupervisedProgram {
  std::string name;
  // Path and arguments; asked for before every start.
  std::function<std::vector<std::string>()> command;
  // Whether it does its work; asked again and again after a start, and after a start of a program
  // before it, until it says yes. Should answer within a second.
  std::function<bool()> ready;
};

struct SupervisorOptions {
  int output_fd = -1;  // of the programs' output, see Subprocess::Start()
  RestartLimits limits = {};
  // A line for a person about ends, restarts and waits. On Run()'s thread, as is on_ready.
  std::function<void(const std::string&)> tell = [](const std::string&) {};
  // All programs are ready for the first time.
  std::function<void()> on_ready = [] {};
};

class Supervisor {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Supervisor(std::vector<SupervisedProgram> programs);
  Supervisor(const Supervisor&) = delete;

  // Until RequestStop(), then OK; or until a program is given up: UNAVAILABLE says which and how it
  // ended. In both cases no program runs when it returns.
  absl::Status Run(const SupervisorOptions& options);
  // Asks the programs to end (SIGTERM), the last one first; each takes the time it needs.
  void RequestStop();
  // Asks the programs to read again what they can (SIGHUP). One that is not ready was started just
  // now and is left alone until it is.
  void RequestReload();

 private:
  struct Program {
    SupervisedProgram spec;
    RestartRule rule = RestartRule();
    std::optional<Subprocess> process = {};
    Clock::time_point due = {};         // of the next start
    Clock::time_point started_at = {};  // or asked anew whether it is ready
    std::optional<Clock::time_point> ready_at = {};
    bool was_ready = false;  // ever
    bool noted = false;      // that it takes long
    bool reload = false;     // is owed a SIGHUP
  };

  absl::Status Tick();
  absl::Status Start(Program& program);
  absl::Status OnEnd(size_t at, const ProgramEnd& end);
  absl::Status Again(Program& program, std::chrono::nanoseconds ready, const std::string& what);
  void Ask(Program& program);
  bool AllReady() const;
  void StopAll();
  void PassReloadOn();
  // False: a stop has been requested.
  bool Pause(std::chrono::milliseconds time);

  std::vector<Program> programs_;
  SupervisorOptions options_;
  bool announced_ = false;  // on_ready has been called
  Mutex mutex_;
  CondVar changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool reload_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tidegate
