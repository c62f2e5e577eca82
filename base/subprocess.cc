#include "base/subprocess.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"

namespace tidegate {
namespace {

// Between fork and exec of a process with threads: system calls only, and every signal is blocked
// until our handlers, which would remove files of ours, are gone. Tells `failure` the errno.
[[noreturn]] void Become(char* const* argv, pid_t parent, int input, int output, int failure) {
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
    struct sigaction action;
    if (::sigaction(number, nullptr, &action) == 0 && action.sa_handler != SIG_IGN) {
      ::signal(number, SIG_DFL);
    }
  }
  ::setsid();
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(1);  // It ended before it could be asked for the signal.
  sigset_t none;
  sigemptyset(&none);
  bool ready = ::sigprocmask(SIG_SETMASK, &none, nullptr) == 0;
  ready = ready && ::dup2(input, STDIN_FILENO) >= 0;
  if (output >= 0) {
    ready = ready && ::dup2(output, STDOUT_FILENO) >= 0 && ::dup2(output, STDERR_FILENO) >= 0;
  }
  if (ready) ::execv(argv[0], argv);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = ::write(failure, &error, sizeof(error));
  ::_exit(127);
}

// The errno that the child has told; 0: it has become the program.
int FailureOf(int fd) {
  int error = 0;
  ssize_t got = 0;
  do {
    got = ::read(fd, &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  return got == static_cast<ssize_t>(sizeof(error)) ? error : 0;
}

ProgramEnd EndOf(int status) {
  if (WIFSIGNALED(status)) return {0, WTERMSIG(status)};
  return {WEXITSTATUS(status), 0};
}

}  // namespace

std::string ProgramEnd::Describe() const {
  if (signal == 0) return absl::StrCat("exit code ", exit_code);
  return absl::StrCat("signal ", signal, " (", ::strsignal(signal), ")");
}

absl::StatusOr<Subprocess> Subprocess::Start(const std::vector<std::string>& command,
                                             int output_fd) {
  std::vector<char*> argv;
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ASSIGN_OR_RETURN(const UniqueFd input, UniqueFd::Open("/dev/null", O_RDONLY));
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "cannot make a pipe");
  UniqueFd failure(ends[0]), tell(ends[1]);
  sigset_t all, before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) Become(argv.data(), parent, input.get(), output_fd, tell.get());
  const int error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid < 0) return absl::ErrnoToStatus(error, absl::StrCat("cannot start ", command[0]));
  tell.reset();
  if (const int failed = FailureOf(failure.get()); failed != 0) {
    ::waitpid(pid, nullptr, 0);
    return absl::ErrnoToStatus(failed, absl::StrCat("cannot start ", command[0]));
  }
  return Subprocess(pid);
}

Subprocess::Subprocess(Subprocess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), end_(other.end_) {}

Subprocess::~Subprocess() {
  if (pid_ < 0 || End()) return;
  Signal(SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

std::optional<ProgramEnd> Subprocess::End() {
  int status = 0;
  if (!end_ && ::waitpid(pid_, &status, WNOHANG) == pid_) end_ = EndOf(status);
  return end_;
}

void Subprocess::Signal(int number) {
  if (!End()) ::kill(pid_, number);
}

absl::StatusOr<std::string> SiblingProgram(const std::string& name) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return absl::ErrnoToStatus(error.value(), "cannot read /proc/self/exe");
  const std::string path = (self.parent_path() / name).string();
  if (std::filesystem::exists(path, error)) return path;
  return absl::NotFoundError(absl::StrCat(name, " is missing: it has to lie beside ",
                                          self.filename().string(), " in ",
                                          self.parent_path().string()));
}

}  // namespace tidegate
