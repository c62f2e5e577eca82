#include "weightstore/io/flash_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

absl::Status CheckKind(int fd, const std::string& path) {
  struct stat info;
  if (::fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("fstat ", path));
  if (S_ISREG(info.st_mode) || S_ISBLK(info.st_mode)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(path, " is not a regular file or block device; give the path of a pack file"));
}

// Linux 6.6 and later accept O_DIRECT on tmpfs and then read through the page cache all the same.
bool LivesInMemory(int fd) {
  struct statfs info;
  return ::fstatfs(fd, &info) == 0 &&
         (info.f_type == TMPFS_MAGIC || static_cast<uint32_t>(info.f_type) == RAMFS_MAGIC);
}

}  // namespace

std::string ErrnoText(int error) { return std::generic_category().message(error); }

absl::StatusOr<FlashFile> OpenFlashFile(const std::string& path, bool want_direct) {
  // O_NONBLOCK: a FIFO with no writer would block here before CheckKind can refuse it.
  ASSIGN_OR_RETURN(UniqueFd plain, UniqueFd::Open(path, O_RDONLY | O_NONBLOCK));
  RETURN_IF_ERROR(CheckKind(plain.get(), path));
  if (!want_direct || LivesInMemory(plain.get())) return FlashFile{std::move(plain), false};
  absl::StatusOr<UniqueFd> direct = UniqueFd::Open(path, O_RDONLY | O_DIRECT);
  if (direct.ok()) return FlashFile{std::move(*direct), true};
  if (absl::IsInvalidArgument(direct.status())) return FlashFile{std::move(plain), false};
  return direct.status();
}

}  // namespace tidegate
