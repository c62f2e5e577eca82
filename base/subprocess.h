// A program that runs as a child of this process, and ends with it.
//
// It has a session of its own, so that Ctrl-C and a closed terminal reach it only through us, and
// no input. When the thread that started it ends, by whatever means, the kernel sends it SIGTERM:
// that thread has to live as long as the child. Not here: when to start it again
// (cli/supervisor.h). Owned by one thread, the one that starts it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tidegate {

// How a program ended.
struct ProgramEnd {
  int exit_code = 0;  // if no signal ended it
  int signal = 0;     // 0: none did
  // "exit code 3", "signal 9 (Killed)".
  std::string Describe() const;
};

class Subprocess {
 public:
  // `command[0]` is the path of the program. Standard output and error go to `output_fd`, which
  // stays the caller's; -1: to ours. Errors name the program: that of fork(2), or of execve(2).
  static absl::StatusOr<Subprocess> Start(const std::vector<std::string>& command,
                                          int output_fd = -1);
  Subprocess(Subprocess&& other) noexcept;
  Subprocess& operator=(Subprocess&& other) = delete;
  // Kills it if it still runs.
  ~Subprocess();

  pid_t pid() const { return pid_; }
  // How it ended; nullopt: it runs. Does not wait.
  std::optional<ProgramEnd> End();
  // Nothing if it has ended.
  void Signal(int number);

 private:
  explicit Subprocess(pid_t pid) : pid_(pid) {}

  pid_t pid_ = -1;  // -1: moved from
  std::optional<ProgramEnd> end_;
};

// The path of the program `name` in the folder of the running program. NOT_FOUND names the folder.
absl::StatusOr<std::string> SiblingProgram(const std::string& name);

}  // namespace tidegate
