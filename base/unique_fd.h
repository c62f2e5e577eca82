// Owns one file descriptor and closes it. Thread-compatible.
#pragma once

#include <fcntl.h>

#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace tidegate {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  ~UniqueFd() { reset(); }

  // open(2) with O_CLOEXEC. The error names the path and the errno text.
  static absl::StatusOr<UniqueFd> Open(const std::string& path, int flags, mode_t mode = 0);

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset();

 private:
  int fd_ = -1;
};

// Size of an open file in bytes.
absl::StatusOr<uint64_t> FileSize(int fd);

// pread(2)/pwrite(2) until all `bytes` are done. A file that ends early is OUT_OF_RANGE.
absl::Status ReadAt(int fd, uint64_t offset, void* data, size_t bytes);
absl::Status WriteAt(int fd, uint64_t offset, const void* data, size_t bytes);

}  // namespace tidegate
