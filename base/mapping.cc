#include "base/mapping.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tidegate {
namespace {

// Address space for `bytes` at a multiple of kHugePageBytes, or null: then anywhere has to do.
std::byte* ReserveAligned(size_t bytes) {
  const size_t reserved = bytes + kHugePageBytes;
  void* space =
      ::mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (space == MAP_FAILED) return nullptr;
  auto* const begin = static_cast<std::byte*>(space);
  const size_t head = -reinterpret_cast<uintptr_t>(begin) % kHugePageBytes;
  if (head > 0) ::munmap(begin, head);
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t end = (head + bytes + page - 1) / page * page;
  if (end < reserved) ::munmap(begin + end, reserved - end);
  return begin + head;
}

}  // namespace

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

absl::StatusOr<Mapping> Mapping::Map(int fd, size_t bytes, Access access) {
  const int protection = access == Access::kRead ? PROT_READ : PROT_READ | PROT_WRITE;
  std::byte* const place = bytes >= kHugePageBytes ? ReserveAligned(bytes) : nullptr;
  const int fixed = place == nullptr ? 0 : MAP_FIXED;
  void* data = ::mmap(place, bytes, protection, MAP_SHARED | fixed, fd, 0);
  if (data == MAP_FAILED) {
    const int error = errno;
    if (place != nullptr) ::munmap(place, bytes);
    return absl::ErrnoToStatus(error, absl::StrCat("mmap of ", bytes, " bytes"));
  }
  return Mapping(static_cast<std::byte*>(data), bytes);
}

}  // namespace tidegate
