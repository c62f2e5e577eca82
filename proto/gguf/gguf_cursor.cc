#include "proto/gguf/gguf_cursor.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"

namespace tidegate {
namespace {

constexpr uint64_t kBufferBytes = 256 << 10;

}  // namespace

absl::Status GgufCursor::Fill() {
  buffer_.resize(std::min(kBufferBytes, remaining()));
  buffer_offset_ = position_;
  return ReadAt(fd_, position_, buffer_.data(), buffer_.size());
}

absl::Status GgufCursor::Read(void* out, uint64_t bytes, const char* what) {
  if (bytes > remaining()) {
    return absl::DataLossError(absl::StrCat("truncated: the file ends after ", file_bytes_,
                                            " bytes, inside ", what,
                                            "; copy or download it again"));
  }
  auto* to = static_cast<char*>(out);
  while (bytes > 0) {
    uint64_t in_buffer = position_ - buffer_offset_;
    if (in_buffer >= buffer_.size()) {
      RETURN_IF_ERROR(Fill());
      in_buffer = 0;
    }
    const uint64_t n = std::min(bytes, buffer_.size() - in_buffer);
    std::memcpy(to, buffer_.data() + in_buffer, n);
    to += n;
    position_ += n;
    bytes -= n;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> GgufCursor::ReadString(uint64_t max_bytes, const char* what) {
  ASSIGN_OR_RETURN(const uint64_t bytes, Take<uint64_t>(what));
  if (bytes > max_bytes || text_bytes_ + bytes > kMaxGgufTextBytes) {
    return absl::DataLossError(absl::StrCat("damaged: ", what, " of ", bytes, " bytes at offset ",
                                            position_, " is too long"));
  }
  if (bytes > remaining()) return Read(nullptr, bytes, what);  // Words the error.
  text_bytes_ += bytes;
  std::string text(bytes, '\0');
  RETURN_IF_ERROR(Read(text.data(), bytes, what));
  return text;
}

absl::Status GgufCursor::CheckArray(uint64_t elements, uint64_t bytes_each) {
  if (elements > kMaxGgufElements - elements_) {
    return absl::DataLossError(absl::StrCat("damaged: an array of ", elements,
                                            " elements at offset ", position_,
                                            "; all arrays together may have ", kMaxGgufElements));
  }
  if (elements > remaining() / bytes_each) {
    return absl::DataLossError(absl::StrCat("truncated: an array of ", elements,
                                            " elements at offset ", position_,
                                            " does not fit into the file"));
  }
  elements_ += elements;
  return absl::OkStatus();
}

}  // namespace tidegate
