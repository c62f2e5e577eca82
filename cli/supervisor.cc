#include "cli/supervisor.h"

#include <signal.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/units.h"

namespace tidegate {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTickStarting{50}, kTickRunning{100}, kTickStopping{20};
// Not ready for so long is worth a line.
constexpr std::chrono::seconds kLong{30};

std::string InSeconds(std::chrono::nanoseconds time) {
  return FormatSeconds(std::chrono::duration<double>(time).count());
}

}  // namespace

Supervisor::Supervisor(std::vector<SupervisedProgram> programs) {
  for (SupervisedProgram& spec : programs) programs_.push_back({std::move(spec)});
}

absl::Status Supervisor::Run(const SupervisorOptions& options) {
  options_ = options;
  for (Program& program : programs_) program.rule = RestartRule(options_.limits);
  absl::Status status;
  while (status.ok() && Pause(AllReady() ? kTickRunning : kTickStarting)) status = Tick();
  StopAll();
  return status;
}

void Supervisor::RequestStop() {
  const MutexLock lock(mutex_);
  stop_ = true;
  changed_.NotifyAll();
}

void Supervisor::RequestReload() {
  const MutexLock lock(mutex_);
  reload_ = true;
  changed_.NotifyAll();
}

bool Supervisor::Pause(milliseconds time) {
  const MutexLock lock(mutex_);
  const auto end = Clock::now() + time;
  while (!stop_ && !reload_ && Clock::now() < end) changed_.WaitFor(mutex_, end - Clock::now());
  return !stop_;
}

bool Supervisor::AllReady() const {
  return std::all_of(programs_.begin(), programs_.end(),
                     [](const Program& program) { return program.ready_at.has_value(); });
}

void Supervisor::PassReloadOn() {
  bool asked = false;
  {
    const MutexLock lock(mutex_);
    std::swap(asked, reload_);
  }
  for (Program& program : programs_) {
    program.reload = program.process && (program.reload || asked);
    if (!program.reload || !program.ready_at) continue;
    program.process->Signal(SIGHUP);
    program.reload = false;
  }
}

absl::Status Supervisor::Tick() {
  PassReloadOn();
  for (size_t i = 0; i < programs_.size(); ++i) {
    Program& program = programs_[i];
    const bool first_of_all = i == 0 || programs_[i - 1].was_ready;
    if (!program.process) {
      if (first_of_all && Clock::now() >= program.due) RETURN_IF_ERROR(Start(program));
    } else if (const auto end = program.process->End()) {
      RETURN_IF_ERROR(OnEnd(i, *end));
    } else if (!program.ready_at && (i == 0 || programs_[i - 1].ready_at)) {
      Ask(program);
    }
  }
  return absl::OkStatus();
}

absl::Status Supervisor::Start(Program& program) {
  auto process = Subprocess::Start(program.spec.command(), options_.output_fd);
  if (!process.ok()) {
    if (!program.was_ready) return process.status();
    return Again(program, {}, std::string(process.status().message()));
  }
  program.process.emplace(*std::move(process));
  program.started_at = Clock::now();
  program.noted = false;
  return absl::OkStatus();
}

absl::Status Supervisor::OnEnd(size_t at, const ProgramEnd& end) {
  Program& program = programs_[at];
  const std::string what = absl::StrCat(program.spec.name, " ended with ", end.Describe());
  program.process.reset();
  if (!program.was_ready) {
    const char* hint = end.signal == SIGKILL ? "; was memory short? Lower --memory" : "";
    return absl::UnavailableError(absl::StrCat(what, " while it started", hint));
  }
  const auto now = Clock::now();
  const auto ready = program.ready_at ? now - *program.ready_at : Clock::duration::zero();
  program.ready_at.reset();
  for (size_t i = at + 1; i < programs_.size(); ++i) {
    programs_[i].ready_at.reset();
    programs_[i].started_at = now;
  }
  return Again(program, ready, what);
}

absl::Status Supervisor::Again(Program& program, std::chrono::nanoseconds ready,
                               const std::string& what) {
  const auto delay = program.rule.AfterEnd(ready);
  if (!delay) {
    return absl::UnavailableError(
        absl::StrCat(what, ", for the ", options_.limits.most_ends + 1, "th time without ",
                     InSeconds(options_.limits.healthy), " of health in between; giving up"));
  }
  program.due = Clock::now() + *delay;
  options_.tell(absl::StrCat(what, "; starting it again in ", InSeconds(*delay)));
  return absl::OkStatus();
}

void Supervisor::Ask(Program& program) {
  const auto now = Clock::now();
  if (!program.spec.ready()) {
    if (program.noted || now - program.started_at < kLong) return;
    program.noted = true;
    options_.tell(absl::StrCat(program.spec.name, " is not ready after ", InSeconds(kLong),
                               "; still waiting"));
    return;
  }
  program.ready_at = now;
  program.was_ready = true;
  if (!AllReady()) return;
  if (announced_) {
    options_.tell("serving again");
  } else {
    announced_ = true;
    options_.on_ready();
  }
}

void Supervisor::StopAll() {
  for (size_t i = programs_.size(); i-- > 0;) {
    std::optional<Subprocess>& process = programs_[i].process;
    if (!process) continue;
    process->Signal(SIGTERM);
    std::optional<ProgramEnd> end;
    while (!(end = process->End())) std::this_thread::sleep_for(kTickStopping);
    // One that was still starting ends by the signal itself.
    if (end->signal == SIGTERM) end->signal = 0;
    if (end->signal != 0 || end->exit_code != 0) {
      options_.tell(absl::StrCat(programs_[i].spec.name, " ended with ", end->Describe()));
    }
    process.reset();
  }
}

}  // namespace tidegate
