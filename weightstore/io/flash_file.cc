#include "weightstore/io/flash_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
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

// Whether O_DIRECT reads may begin and end at multiples of `alignment`: a drive with sectors of
// 4096 bytes refuses less. Asked by reading, because kernels before 6.1 do not tell. A file too
// short to ask is too short to matter.
bool ReadsAligned(int fd, uint32_t alignment) {
  constexpr size_t kPage = 4096;
  alignas(kPage) static thread_local std::byte buffer[2 * kPage];
  const ssize_t bytes = ::pread(fd, buffer + alignment, alignment, alignment);
  return bytes >= 0 || errno != EINVAL;
}

}  // namespace

std::string ErrnoText(int error) { return std::generic_category().message(error); }

absl::StatusOr<FlashFile> OpenFlashFile(const std::string& path, bool want_direct,
                                        uint32_t alignment) {
  // O_NONBLOCK: a FIFO with no writer would block here before CheckKind can refuse it.
  ASSIGN_OR_RETURN(UniqueFd plain, UniqueFd::Open(path, O_RDONLY | O_NONBLOCK));
  RETURN_IF_ERROR(CheckKind(plain.get(), path));
  const auto cached = [&](std::string why) {
    return FlashFile{std::move(plain), false, std::move(why)};
  };
  if (!want_direct) return cached("the model's times do not come from the drive");
  if (LivesInMemory(plain.get())) return cached("the pack lies in memory (tmpfs)");
  absl::StatusOr<UniqueFd> direct = UniqueFd::Open(path, O_RDONLY | O_DIRECT);
  if (direct.ok()) {
    if (ReadsAligned(direct->get(), alignment)) return FlashFile{std::move(*direct), true, ""};
    return cached(absl::StrCat("the drive refuses reads at multiples of ", alignment, " bytes"));
  }
  if (absl::IsInvalidArgument(direct.status())) return cached("the file system has no O_DIRECT");
  return direct.status();
}

}  // namespace tidegate
