#include "packer/write_behind.h"

#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "base/status_macros.h"

namespace tidegate {
namespace {

// What the drive keeps in its own cache is made durable in the meantime, not all at the end.
constexpr uint64_t kSyncBytes = 256u << 20;

}  // namespace

WriteBehind::WriteBehind(int fd) : fd_(fd), file_(fd, O_WRONLY) {
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error&) {  // No more threads allowed.
  }
}

WriteBehind::~WriteBehind() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
  }
  changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<std::span<uint8_t>> WriteBehind::Room(uint64_t offset, size_t bytes) {
  Piece& piece = current();
  MutexLock lock(mutex_);
  while (piece.waiting) changed_.Wait(mutex_);
  RETURN_IF_ERROR(error_);
  // As the file's pages lie, so that they can go past the page cache.
  const size_t skip = offset % kDirectAlign;
  RETURN_IF_ERROR(piece.buffer.Reserve(skip + bytes));
  piece.offset = offset;
  const std::span<uint8_t> room(piece.buffer.data() + skip, bytes);
  piece.bytes = room;
  return room;
}

void WriteBehind::Write() {
  Piece& piece = current();
  next_ = 1 - next_;
  {
    MutexLock lock(mutex_);
    piece.waiting = true;
    if (!thread_.joinable()) WriteOut(piece);
  }
  changed_.NotifyAll();
}

absl::Status WriteBehind::Finish() {
  MutexLock lock(mutex_);
  while (pieces_[0].waiting || pieces_[1].waiting) changed_.Wait(mutex_);
  return error_;
}

void WriteBehind::Run() {
  size_t turn = 0;  // Pieces come in turn.
  MutexLock lock(mutex_);
  while (true) {
    while (!stop_ && !pieces_[turn].waiting) changed_.Wait(mutex_);
    if (stop_) return;
    WriteOut(pieces_[turn]);
    turn = 1 - turn;
  }
}

void WriteBehind::WriteOut(Piece& piece) {
  absl::Status status = error_;  // After an error nothing more is written.
  mutex_.Unlock();
  if (status.ok()) status = file_.Write(piece.offset, piece.bytes.data(), piece.bytes.size());
  unsynced_bytes_ += piece.bytes.size();
  if (unsynced_bytes_ >= kSyncBytes) {
    // Linux reports a failed write-back to one caller only: a later fsync may not know of it.
    if (status.ok() && ::fdatasync(fd_) != 0 && errno != EINVAL) {
      status = absl::ErrnoToStatus(errno, "fdatasync");
    }
    unsynced_bytes_ = 0;
  }
  mutex_.Lock();
  error_ = std::move(status);
  piece.waiting = false;
  changed_.NotifyAll();
}

}  // namespace tidegate
