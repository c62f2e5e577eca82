// What a request's body takes of the memory that a server grants to all bodies together.
// One thread at a time; the sum is anybody's.
#pragma once

#include <atomic>
#include <cstddef>
#include <utility>

namespace tidegate {

class HttpBodyShare {
 public:
  // `total`: bytes of all bodies; not owned, may be null: nothing is counted.
  explicit HttpBodyShare(std::atomic<size_t>* total = nullptr) : total_(total) {}
  HttpBodyShare(HttpBodyShare&& other) noexcept { *this = std::move(other); }
  HttpBodyShare& operator=(HttpBodyShare&& other) noexcept {
    std::swap(total_, other.total_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~HttpBodyShare() {
    if (total_ != nullptr) *total_ -= bytes_;
  }

  // The body has grown to `bytes`. Returns the sum.
  size_t Grow(size_t bytes) {
    if (total_ == nullptr) return 0;
    *total_ += bytes - bytes_;
    bytes_ = bytes;
    return *total_;
  }

 private:
  std::atomic<size_t>* total_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace tidegate
