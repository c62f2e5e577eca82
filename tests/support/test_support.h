// What every test may need: where things are, temporary folders, real child processes.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tidegate {

// Paths. SharedPath("data/x") lies in the oracle data, which may be absent; ModelPath("x") in
// models/; BinaryPath("tidegate") in the build folder.
std::string SharedPath(const std::string& relative);
std::string ModelPath(const std::string& relative);
std::string DemoModelPath();  // the model in models/ that the demo serves
std::string SourcePath(const std::string& relative);
std::string BinaryPath(const std::string& relative);
bool FileExists(const std::string& path);

std::string ReadFileOrDie(const std::string& path);
void WriteFileOrDie(const std::string& path, std::string_view content);

// A fresh folder under $TMPDIR, removed with everything in it.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A child process with its output in files. Killed by the destructor.
class ChildProcess {
 public:
  // `arguments[0]` is the program. `environment`: "NAME=value" added to ours.
  ChildProcess(std::vector<std::string> arguments, const std::string& output_path,
               std::vector<std::string> environment = {});
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;

  void Signal(int number);
  // Exit code, or 128 + signal; -1 when `timeout` passed first.
  int Wait(std::chrono::milliseconds timeout);
  bool running();
  pid_t pid() const { return pid_; }
  // Standard output and standard error so far (both go to output_path).
  std::string Output() const;

 private:
  pid_t pid_ = -1;
  int exit_code_ = -1;
  std::string output_path_;
};

// Runs a program to its end; returns its exit code, standard output and standard error.
struct RunResult {
  int exit_code = -1;
  std::string out;
  std::string err;
};
RunResult RunProgram(const std::vector<std::string>& arguments,
                     std::chrono::milliseconds timeout = std::chrono::minutes(5));

// Polls until `condition` or `timeout`; returns the last value of the condition.
template <typename Condition>
bool WaitUntil(Condition condition, std::chrono::milliseconds timeout);

}  // namespace tidegate

#include <thread>

namespace tidegate {

template <typename Condition>
bool WaitUntil(Condition condition, std::chrono::milliseconds timeout) {
  const auto end = std::chrono::steady_clock::now() + timeout;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return condition();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace tidegate

// Skips the test, naming what is missing. For use at the top of a test body.
#define TG_REQUIRE_SHARED(relative)                                              \
  do {                                                                           \
    if (!::tidegate::FileExists(::tidegate::SharedPath(relative)))               \
      GTEST_SKIP() << "oracle data absent: " << ::tidegate::SharedPath(relative) \
                   << " (only the developers' checkouts have it)";               \
  } while (false)
