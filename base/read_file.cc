#include "base/read_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/unique_fd.h"

namespace tidegate {
namespace {

constexpr size_t kShownPathBytes = 4096;  // the longest that the system takes
constexpr size_t kFirstRead = 16 << 10, kLargestRead = 1 << 20;

const char* KindOf(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return S_ISCHR(mode) ? "a character device" : "no file";
}

absl::Status TooLarge(const std::string& name, size_t max_bytes) {
  return absl::InvalidArgumentError(absl::StrCat(name, " is larger than ", max_bytes, " bytes"));
}

absl::Status WrongKind(const std::string& name, mode_t mode, const char* wanted) {
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", KindOf(mode), "; name ", wanted));
}

absl::StatusOr<struct stat> Examine(int fd, const std::string& name) {
  struct stat info;
  if (::fstat(fd, &info) == 0) return info;
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot examine ", name));
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  const std::string name = path == "-" ? "standard input" : Printable(path, kShownPathBytes);
  UniqueFd file;
  int fd = STDIN_FILENO;
  if (path != "-") {
    ASSIGN_OR_RETURN(file, UniqueFd::Open(path, O_RDONLY | O_NOCTTY));
    fd = file.get();
  }
  ASSIGN_OR_RETURN(const struct stat info, Examine(fd, name));
  if (S_ISDIR(info.st_mode)) return WrongKind(name, info.st_mode, "a file");
  if (S_ISREG(info.st_mode) && static_cast<uint64_t>(info.st_size) > max_bytes) {
    return TooLarge(name, max_bytes);  // before anything is read
  }
  std::string content;
  for (size_t step = kFirstRead;; step = std::min(2 * step, kLargestRead)) {
    const size_t size = content.size();
    content.resize(size + step);
    const ssize_t n = ::read(fd, content.data() + size, step);
    content.resize(size + static_cast<size_t>(std::max<ssize_t>(n, 0)));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", name));
    if (n == 0) return content;
    if (content.size() > max_bytes) return TooLarge(name, max_bytes);
  }
}

absl::StatusOr<UniqueFd> OpenFile(const std::string& path) {
  ASSIGN_OR_RETURN(UniqueFd fd, UniqueFd::Open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY));
  ASSIGN_OR_RETURN(const struct stat info, Examine(fd.get(), Printable(path, kShownPathBytes)));
  if (S_ISREG(info.st_mode) || S_ISBLK(info.st_mode)) return fd;
  return WrongKind(Printable(path, kShownPathBytes), info.st_mode, "a regular file");
}

}  // namespace tidegate
