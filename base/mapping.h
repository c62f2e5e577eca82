// Owns one mmap(2) of a file descriptor. Thread-compatible; the bytes follow their own rules.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"

namespace tidegate {

inline constexpr size_t kHugePageBytes = size_t{2}
                                         << 20;  // of x86-64 and of arm64 with 4 KiB pages

class Mapping {
 public:
  enum class Access { kRead, kReadWrite };

  Mapping() = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  // Maps `bytes` of `fd` from offset 0, shared. The descriptor may be closed afterwards. From
  // kHugePageBytes on, the address is a multiple of it: huge pages of the file, where there are
  // any, take one entry of the page table then.
  static absl::StatusOr<Mapping> Map(int fd, size_t bytes, Access access);

  std::byte* data() const { return data_; }
  size_t size() const { return bytes_; }
  bool valid() const { return data_ != nullptr; }

  // The object of type T at `offset` bytes. REQUIRES: it lies within the mapping and is aligned.
  template <typename T>
  T* At(uint64_t offset) const {
    return reinterpret_cast<T*>(data_ + offset);
  }

 private:
  Mapping(std::byte* data, size_t bytes) : data_(data), bytes_(bytes) {}

  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace tidegate
