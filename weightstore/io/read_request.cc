#include "weightstore/io/read_request.h"

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "weightstore/io/flash_file.h"

namespace tidegate {
namespace {

constexpr uint64_t kSector = 512;  // the smallest unit in which O_DIRECT makes progress
// EAGAIN and EINTR pass by themselves; a device that answers nothing else for so long is broken.
constexpr uint32_t kMaxRetries = 1000;

bool Aligned(const FlashSegment& segment) {
  return reinterpret_cast<uintptr_t>(segment.data) % kSector == 0 && segment.bytes > 0 &&
         segment.bytes % kSector == 0;
}

}  // namespace

void ReadRequest::Reset(const FlashRead& read) {
  CHECK(!read.segments.empty() && read.segments.size() <= kMaxSegments);
  CHECK(read.offset % kSector == 0);
  tag_ = read.tag;
  offset_ = read.offset;
  remaining_ = 0;
  first_ = count_ = retries_ = 0;
  status_ = absl::OkStatus();
  for (const FlashSegment& segment : read.segments) {
    CHECK(Aligned(segment));
    remaining_ += segment.bytes;
    if (count_ > 0) {
      iovec& last = iovecs_[count_ - 1];
      if (static_cast<std::byte*>(last.iov_base) + last.iov_len == segment.data) {
        last.iov_len += segment.bytes;
        continue;
      }
    }
    iovecs_[count_++] = {segment.data, segment.bytes};
  }
}

void ReadRequest::Advance(uint64_t bytes) {
  offset_ += bytes;
  remaining_ -= bytes;
  while (bytes > 0) {
    iovec& iov = iovecs_[first_];
    const uint64_t step = std::min<uint64_t>(bytes, iov.iov_len);
    iov.iov_base = static_cast<std::byte*>(iov.iov_base) + step;
    iov.iov_len -= step;
    bytes -= step;
    if (iov.iov_len == 0) ++first_;
  }
}

bool ReadRequest::Apply(int64_t result, bool direct) {
  if ((result == -EAGAIN || result == -EINTR) && ++retries_ < kMaxRetries) return false;
  if (result < 0) {
    status_ =
        absl::UnavailableError(absl::StrCat("read of ", remaining_, " bytes at offset ", offset_,
                                            ": ", ErrnoText(static_cast<int>(-result))));
    return true;
  }
  CHECK(static_cast<uint64_t>(result) <= remaining_);
  Advance(static_cast<uint64_t>(result));
  if (remaining_ == 0) return true;
  if (result > 0 && !(direct && offset_ % kSector != 0)) return false;
  status_ = absl::OutOfRangeError(absl::StrCat("file has no more bytes at offset ", offset_, ", ",
                                               remaining_, " bytes before the end of the read"));
  return true;
}

FlashCompletion ReadRequest::Complete(Clock::time_point now) {
  return {tag_, std::move(status_), now - submitted_};
}

void ReadFully(int fd, bool direct, ReadRequest& request) {
  int64_t result = 0;
  do {
    result = ::preadv(fd, request.iov(), static_cast<int>(request.iov_count()),
                      static_cast<off_t>(request.offset()));
    if (result < 0) result = -errno;
  } while (!request.Apply(result, direct));
}

ReadPool::ReadPool(uint32_t size) : requests_(size) {
  free_.reserve(size);
  for (uint32_t i = size; i > 0; --i) free_.push_back(i - 1);
}

uint32_t ReadPool::Take(const FlashRead& read) {
  CHECK(!free_.empty());
  const uint32_t index = free_.back();
  free_.pop_back();
  requests_[index].Reset(read);
  return index;
}

}  // namespace tidegate
