// Reads the rows of tensors on a thread of its own while those before them are worked on. Says
// nothing about what rows mean. Used by one thread.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <span>
#include <thread>

#include "absl/status/statusor.h"
#include "base/aligned_buffer.h"
#include "base/mutex.h"
#include "packer/source_model.h"

namespace tidegate {

class ReadAhead {
 public:
  // `source` must outlive it, as must the tensors named below.
  explicit ReadAhead(const SourceModel& source);
  ~ReadAhead();

  // Rows that Take() will be asked for, in this order. A wrong guess costs time and nothing else.
  void Expect(const GgufTensor& tensor, uint64_t first, uint64_t count);

  // The bytes of rows [first, first + count) as they lie in the file; until the next call.
  absl::StatusOr<std::span<const uint8_t>> Take(const GgufTensor& tensor, uint64_t first,
                                                uint64_t count);

 private:
  static constexpr size_t kBuffers = 3;  // one is worked on, one waits, one is being read

  struct Rows {
    const GgufTensor* tensor;
    uint64_t first, count;
    bool operator==(const Rows&) const = default;
  };
  struct Begun {
    Rows rows;
    AlignedBuffer* buffer;
    bool done = false;
    absl::StatusOr<std::span<const uint8_t>> bytes = absl::UnknownError("being read");
  };

  void Run();
  // Reads what is expected next. REQUIRES: something is, and a buffer is free.
  void ReadNext() EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::span<const uint8_t>> Read(const Rows& rows, AlignedBuffer& buffer) const;
  bool HasWork() const EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !expected_.empty() && !free_.empty();
  }

  const SourceModel& source_;
  std::array<AlignedBuffer, kBuffers> buffers_;
  AlignedBuffer* taken_ = nullptr;  // what the last Take() gave out

  Mutex mutex_;
  CondVar changed_;
  std::deque<AlignedBuffer*> free_ GUARDED_BY(mutex_);
  std::deque<Rows> expected_ GUARDED_BY(mutex_);
  std::deque<Begun> begun_ GUARDED_BY(mutex_);  // in the order of expected_, whose head they were
  bool stop_ GUARDED_BY(mutex_) = false;
  std::thread thread_;  // none: Take() reads
};

}  // namespace tidegate
