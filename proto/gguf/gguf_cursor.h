// Reads the head of a GGUF file front to back through a small buffer. Every length is compared with
// what is left of the file before anything is allocated or read, so that a hostile file costs
// nothing. Owned by one thread. Offsets and sizes in bytes.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/status_macros.h"

namespace tidegate {

// Limits that the reader accepts; real files stay far below them.
inline constexpr uint64_t kMaxGgufStringBytes = 16ull << 20;  // chat templates are the longest
inline constexpr uint64_t kMaxGgufNameBytes = 1024;           // keys and tensor names
inline constexpr uint64_t kMaxGgufEntries = 1ull << 16;       // metadata entries; tensors
inline constexpr uint64_t kMaxGgufElements = 8ull << 20;  // array elements of all metadata together
inline constexpr uint64_t kMaxGgufTextBytes = 256ull << 20;  // text of all metadata together

class GgufCursor {
 public:
  // `fd` is not owned and must outlive the cursor.
  GgufCursor(int fd, uint64_t file_bytes) : fd_(fd), file_bytes_(file_bytes) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return file_bytes_ - position_; }

  // `what` names the thing being read, for messages. DATA_LOSS: the file ends before it does.
  absl::Status Read(void* out, uint64_t bytes, const char* what);
  absl::StatusOr<std::string> ReadString(uint64_t max_bytes, const char* what);

  template <typename T>
  absl::StatusOr<T> Take(const char* what) {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    RETURN_IF_ERROR(Read(&value, sizeof(value), what));
    return value;
  }

  // Counts `elements` against kMaxGgufElements and what is left of the file.
  absl::Status CheckArray(uint64_t elements, uint64_t bytes_each);

 private:
  absl::Status Fill();

  int fd_;
  uint64_t file_bytes_;
  uint64_t position_ = 0;
  uint64_t buffer_offset_ = 0;  // of buffer_[0] in the file
  uint64_t elements_ = 0;       // so far, of all arrays
  uint64_t text_bytes_ = 0;     // so far, of all strings
  std::vector<char> buffer_;
};

}  // namespace tidegate
