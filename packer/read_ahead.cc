#include "packer/read_ahead.h"

#include <system_error>

#include "base/status_macros.h"

namespace tidegate {

ReadAhead::ReadAhead(const SourceModel& source) : source_(source) {
  {
    MutexLock lock(mutex_);
    for (AlignedBuffer& buffer : buffers_) free_.push_back(&buffer);
  }
  try {
    thread_ = std::thread([this] { Run(); });
  } catch (const std::system_error&) {  // No more threads allowed.
  }
}

ReadAhead::~ReadAhead() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
  }
  changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

void ReadAhead::Expect(const GgufTensor& tensor, uint64_t first, uint64_t count) {
  {
    MutexLock lock(mutex_);
    expected_.push_back({&tensor, first, count});
  }
  changed_.NotifyAll();
}

absl::StatusOr<std::span<const uint8_t>> ReadAhead::Take(const GgufTensor& tensor, uint64_t first,
                                                         uint64_t count) {
  const Rows wanted = {&tensor, first, count};
  MutexLock lock(mutex_);
  if (taken_ != nullptr) free_.push_back(std::exchange(taken_, nullptr));
  changed_.NotifyAll();
  while (true) {
    if (!begun_.empty()) {
      if (!begun_.front().done) {
        changed_.Wait(mutex_);
        continue;
      }
      const Begun front = std::move(begun_.front());
      begun_.pop_front();
      if (front.rows == wanted) {
        taken_ = front.buffer;
        return front.bytes;
      }
      free_.push_back(front.buffer);  // Nobody asked for it.
      changed_.NotifyAll();
      continue;
    }
    while (!expected_.empty() && !(expected_.front() == wanted)) expected_.pop_front();
    if (expected_.empty()) expected_.push_back(wanted);
    changed_.NotifyAll();
    if (thread_.joinable()) {
      changed_.Wait(mutex_);
    } else {
      ReadNext();
    }
  }
}

void ReadAhead::Run() {
  MutexLock lock(mutex_);
  while (true) {
    while (!stop_ && !HasWork()) changed_.Wait(mutex_);
    if (stop_) return;
    ReadNext();
  }
}

void ReadAhead::ReadNext() {
  const Rows rows = expected_.front();
  AlignedBuffer* const buffer = free_.front();
  expected_.pop_front();
  free_.pop_front();
  Begun& begun = begun_.emplace_back(Begun{rows, buffer});  // A deque leaves it where it is.
  mutex_.Unlock();
  auto bytes = Read(rows, *buffer);
  mutex_.Lock();
  begun.bytes = std::move(bytes);
  begun.done = true;
  changed_.NotifyAll();
}

absl::StatusOr<std::span<const uint8_t>> ReadAhead::Read(const Rows& rows,
                                                         AlignedBuffer& buffer) const {
  const uint64_t row_bytes = rows.tensor->bytes / rows.tensor->rows();
  const uint64_t bytes = rows.count * row_bytes;
  ASSIGN_OR_RETURN(const uint8_t* data,
                   source_.ReadBytes(*rows.tensor, rows.first * row_bytes, bytes, buffer));
  return std::span(data, bytes);
}

}  // namespace tidegate
