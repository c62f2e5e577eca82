#include "base/direct_file.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/units.h"

namespace tidegate {
namespace {

// A system call moves less than 2 GiB; a few large ones keep a drive as busy as one.
constexpr size_t kMaxTransferBytes = 64u << 20;

// Repeats `transfer(done)`, a pread(2) or pwrite(2) of what is left, while it makes progress in
// whole pages. What it does not do is left to the page cache, which also finds the words for
// errors.
template <typename Transfer>
size_t TransferPages(size_t bytes, const Transfer& transfer) {
  size_t done = 0;
  while (done < bytes) {
    const ssize_t n = transfer(done, std::min(bytes - done, kMaxTransferBytes));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
    if (done % kDirectAlign != 0) break;  // The end of the file.
  }
  return done;
}

}  // namespace

DirectFile::DirectFile(int fd, int flags) : fd_(fd) {
  // Through /proc, for a descriptor of its own: O_DIRECT is a property of the open file.
  auto direct = UniqueFd::Open(absl::StrCat("/proc/self/fd/", fd), flags | O_DIRECT);
  if (direct.ok()) direct_ = *std::move(direct);
}

absl::StatusOr<const uint8_t*> DirectFile::Read(uint64_t offset, size_t bytes,
                                                AlignedBuffer& buffer) const {
  const uint64_t start = offset / kDirectAlign * kDirectAlign;
  const size_t skip = offset - start;
  const size_t whole = RoundUp(skip + bytes, kDirectAlign);
  RETURN_IF_ERROR(buffer.Reserve(whole));
  size_t done = 0;
  if (direct_.valid()) {
    done = TransferPages(whole, [&](size_t at, size_t n) {
      return ::pread(direct_.get(), buffer.data() + at, n, static_cast<off_t>(start + at));
    });
  }
  if (done < skip + bytes) {
    RETURN_IF_ERROR(ReadAt(fd_, start + done, buffer.data() + done, skip + bytes - done));
  }
  return buffer.data() + skip;
}

absl::Status DirectFile::Write(uint64_t offset, const uint8_t* data, size_t bytes) const {
  const uint64_t first_page = RoundUp(offset, kDirectAlign);
  const uint64_t end = offset + bytes, last_page = end / kDirectAlign * kDirectAlign;
  if (!direct_.valid() || first_page >= last_page) return WriteAt(fd_, offset, data, bytes);
  RETURN_IF_ERROR(WriteAt(fd_, offset, data, first_page - offset));
  const uint8_t* pages = data + (first_page - offset);
  const size_t done = TransferPages(last_page - first_page, [&](size_t at, size_t n) {
    return ::pwrite(direct_.get(), pages + at, n, static_cast<off_t>(first_page + at));
  });
  return WriteAt(fd_, first_page + done, pages + done, end - first_page - done);
}

}  // namespace tidegate
