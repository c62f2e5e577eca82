#include "base/unique_fd.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/text.h"

namespace tidegate {
namespace {

constexpr size_t kShownNameBytes = 4096;  // the longest that the system takes

}  // namespace

UniqueFd& UniqueFd::operator=(UniqueFd&& other) noexcept {
  if (this != &other) {
    reset();
    fd_ = std::exchange(other.fd_, -1);
  }
  return *this;
}

void UniqueFd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

absl::StatusOr<UniqueFd> UniqueFd::Open(const std::string& path, int flags, mode_t mode) {
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  if (fd < 0)
    return absl::ErrnoToStatus(errno,
                               absl::StrCat("cannot open ", Printable(path, kShownNameBytes)));
  return UniqueFd(fd);
}

absl::StatusOr<uint64_t> FileSize(int fd) {
  struct stat info;
  if (::fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, "fstat");
  return static_cast<uint64_t>(info.st_size);
}

absl::Status ReadAt(int fd, uint64_t offset, void* data, size_t bytes) {
  auto* out = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::pread(fd, out, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat("read at offset ", offset));
    if (n == 0) {
      return absl::OutOfRangeError(
          absl::StrCat("file ends at offset ", offset, ", ", bytes, " bytes too early"));
    }
    out += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status WriteAt(int fd, uint64_t offset, const void* data, size_t bytes) {
  const auto* in = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::pwrite(fd, in, bytes, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat("write at offset ", offset));
    if (n == 0) return absl::ErrnoToStatus(ENOSPC, absl::StrCat("write at offset ", offset));
    in += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

}  // namespace tidegate
