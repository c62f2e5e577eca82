#include "base/standard_streams.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"

namespace tidegate {
namespace {

constexpr int kUnknown = -1;

// Why an earlier write failed, which only its errno told: asked again.
int ReasonNow() {
  pollfd out = {STDOUT_FILENO, POLLOUT, 0};
  if (::poll(&out, 1, 0) > 0 && (out.revents & POLLERR) != 0) return EPIPE;
  return ::write(STDOUT_FILENO, "", 0) < 0 ? errno : kUnknown;
}

// The errno of what was lost: 0 if nothing was.
int LostOutput() {
  errno = 0;
  std::cout.flush();
  if (std::fflush(stdout) != 0) return errno != 0 ? errno : ReasonNow();
  // Some file systems tell only at the end that there is no room. The stream itself stays open.
  const int copy = ::dup(STDOUT_FILENO);
  if (copy >= 0 && ::close(copy) != 0 && errno != EINTR) return errno;
  return std::ferror(stdout) != 0 || !std::cout.good() ? ReasonNow() : 0;
}

absl::Status LostStatus(int error) {
  constexpr char kWhat[] = "cannot write to standard output";
  if (error == 0) return absl::OkStatus();
  if (error == kUnknown) {
    return absl::UnavailableError(absl::StrCat(kWhat, ": a part of it was lost"));
  }
  return absl::UnavailableError(absl::ErrnoToStatus(error, kWhat).message());
}

}  // namespace

void OpenStandardStreams() {
  // The wrong direction, so that using a stream that was closed is still an error; messages go
  // nowhere.
  const int kModes[] = {O_WRONLY, O_RDONLY, O_RDWR};
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    const int opened = ::open("/dev/null", kModes[fd]);  // the smallest free number: `fd`
    if (opened >= 0 && opened != fd) ::close(opened);
  }
}

absl::Status FlushStandardOutput() { return LostStatus(LostOutput()); }

int FinishStandardOutput(std::string_view program, int code) {
  const int error = LostOutput();
  if (error == 0) return code;
  if (error == EPIPE) {
    std::signal(SIGPIPE, SIG_DFL);
    std::raise(SIGPIPE);
    return 1;  // where the signal is blocked
  }
  std::fprintf(stderr, "%s: %s\n", std::string(program).c_str(),
               std::string(LostStatus(error).message()).c_str());
  return code != 0 ? code : 1;
}

}  // namespace tidegate
