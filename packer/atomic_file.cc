#include "packer/atomic_file.h"

#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

std::string FolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

std::string TemporaryName(const std::string& path) {
  uint32_t random = 0;  // Process ids repeat across containers that share a volume.
  if (::getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random)) random = 0;
  return absl::StrCat(path, ".tmp.", ::getpid(), "-", absl::Hex(random, absl::kZeroPad8));
}

std::string DescriptorPath(int fd) { return absl::StrCat("/proc/self/fd/", fd); }

// A rename is durable once its folder is.
absl::Status SyncFolder(const std::string& folder) {
  ASSIGN_OR_RETURN(const UniqueFd fd, UniqueFd::Open(folder, O_RDONLY | O_DIRECTORY));
  if (::fsync(fd.get()) == 0 || errno == EINVAL)
    return absl::OkStatus();  // EINVAL: cannot be synced
  return absl::ErrnoToStatus(errno, absl::StrCat("fsync of folder ", folder));
}

}  // namespace

absl::StatusOr<AtomicFile> AtomicFile::Create(const std::string& path, bool allow_unnamed) {
  struct stat info;
  if (::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, S_ISDIR(info.st_mode) ? " is a folder" : " is not a regular file",
                     "; name the file to write"));
  }
  AtomicFile file(path, TemporaryName(path));
  const std::string folder = FolderOf(path);
  if (allow_unnamed && ::access("/proc/self/fd", X_OK) == 0) {
    auto fd = UniqueFd::Open(folder, O_TMPFILE | O_RDWR, 0644);
    if (fd.ok()) {
      file.fd_ = std::move(*fd);
      return file;
    }
  }
  auto fd = UniqueFd::Open(file.temporary_, O_RDWR | O_CREAT | O_EXCL, 0644);
  if (!fd.ok()) {
    return Annotate(fd.status(), absl::StrCat("cannot write into folder ", folder));
  }
  file.fd_ = std::move(*fd);
  file.named_ = true;
  return file;
}

AtomicFile::~AtomicFile() {
  if (named_ && fd_.valid()) ::unlink(temporary_.c_str());
}

absl::Status AtomicFile::Commit() {
  if (::fsync(fd_.get()) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("fsync of ", path_));
  if (!named_) {
    const std::string unnamed = DescriptorPath(fd_.get());
    if (::linkat(AT_FDCWD, unnamed.c_str(), AT_FDCWD, temporary_.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot name ", temporary_));
    }
    named_ = true;
  }
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot rename ", temporary_, " to ", path_));
  }
  named_ = false;
  fd_.reset();
  return SyncFolder(FolderOf(path_));
}

absl::Status RefuseToReplace(std::span<const std::string> inputs, const std::string& target) {
  struct stat there, input;
  if (::stat(target.c_str(), &there) != 0) return absl::OkStatus();
  for (const std::string& path : inputs) {
    if (::stat(path.c_str(), &input) != 0) continue;
    if (input.st_dev != there.st_dev || input.st_ino != there.st_ino) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(target, " is one of the files to read; give the result another name"));
  }
  return absl::OkStatus();
}

}  // namespace tidegate
