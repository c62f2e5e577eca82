// Writes large pieces of a file on a thread of its own while the next are made. There are two
// buffers: while one is written the other is filled. Used by one thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/aligned_buffer.h"
#include "base/direct_file.h"
#include "base/mutex.h"

namespace tidegate {

class WriteBehind {
 public:
  explicit WriteBehind(int fd);  // not owned
  ~WriteBehind();                // what is not finished may be lost

  // Memory for the `bytes` of the file at `offset`, whose contents are undefined. Waits until a
  // buffer is free; returns the error of an earlier write.
  absl::StatusOr<std::span<uint8_t>> Room(uint64_t offset, size_t bytes);
  // Has what Room() gave last written. REQUIRES: it has been called since the last Write().
  void Write();
  // Waits until all is written, not necessarily to the medium: that is fsync(2).
  absl::Status Finish();

 private:
  struct Piece {
    AlignedBuffer buffer;
    uint64_t offset = 0;
    std::span<const uint8_t> bytes;  // within buffer
    bool waiting = false;            // to be written, or being written
  };

  void Run();
  void WriteOut(Piece& piece) EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Piece& current() { return pieces_[next_]; }

  const int fd_;
  const DirectFile file_;
  uint64_t unsynced_bytes_ = 0;  // of the thread
  size_t next_ = 0;              // the piece that Room() fills
  Mutex mutex_;
  CondVar changed_;
  std::array<Piece, 2> pieces_;  // one with waiting: the thread's, otherwise the caller's
  absl::Status error_ GUARDED_BY(mutex_);
  bool stop_ GUARDED_BY(mutex_) = false;
  std::thread thread_;  // none: Write() writes
};

}  // namespace tidegate
