#include "base/aligned_buffer.h"

#include <sys/mman.h>

#include "absl/strings/str_cat.h"
#include "base/mapping.h"
#include "base/units.h"

namespace tidegate {

AlignedBuffer::~AlignedBuffer() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

absl::Status AlignedBuffer::Reserve(size_t bytes) {
  if (bytes <= size_) return absl::OkStatus();
  *this = AlignedBuffer();
  constexpr size_t kPage = 4096;
  const size_t rounded = RoundUp(bytes, bytes < kHugePageBytes ? kPage : kHugePageBytes);
  void* data = rounded < bytes ? MAP_FAILED
                               : ::mmap(nullptr, rounded, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for ", FormatBytes(bytes)));
  }
  if (rounded >= kHugePageBytes) ::madvise(data, rounded, MADV_HUGEPAGE);  // Only a wish.
  data_ = static_cast<uint8_t*>(data);
  size_ = rounded;
  return absl::OkStatus();
}

}  // namespace tidegate
