#include "server/open_streams.h"

#include <algorithm>

#include "base/check.h"

namespace tidegate {

using std::chrono::milliseconds;

OpenStreams::OpenStreams(int max_streams, milliseconds write_timeout)
    : max_streams_(max_streams), write_timeout_(write_timeout), watcher_([this] { Watch(); }) {}

OpenStreams::~OpenStreams() {
  {
    MutexLock lock(mutex_);
    CHECK(streams_.empty());
    stop_ = true;
  }
  changed_.NotifyAll();
  watcher_.join();
}

bool OpenStreams::Add(Stream* stream) {
  MutexLock lock(mutex_);
  streams_.insert(stream);
  count_ = static_cast<int>(streams_.size());
  return count_ <= max_streams_;
}

void OpenStreams::Remove(Stream* stream) {
  MutexLock lock(mutex_);
  streams_.erase(stream);
  count_ = static_cast<int>(streams_.size());
}

void OpenStreams::Name(Stream* stream, std::string_view request_id, uint64_t engine_id,
                       Clock::duration keep_alive, std::string_view owner) {
  MutexLock lock(mutex_);
  stream->request_id_ = request_id;
  stream->engine_id_ = engine_id;
  stream->owner_ = owner;
  stream->keep_alive_ = keep_alive;
  if (keep_alive.count() > 0) changed_.NotifyAll();
}

std::vector<uint64_t> OpenStreams::Cancel(std::string_view request_id, std::string_view owner) {
  std::vector<uint64_t> ids;
  MutexLock lock(mutex_);
  for (Stream* const stream : streams_) {
    if (stream->settled_ || stream->request_id_.empty() || stream->request_id_ != request_id) {
      continue;
    }
    if (!owner.empty() && stream->owner_ != owner) continue;
    stream->cancelled_ = true;
    ids.push_back(stream->engine_id_);
  }
  return ids;
}

void OpenStreams::EndUnread(Clock::time_point now) {
  const Clock::rep limit = (now - write_timeout_).time_since_epoch().count();
  const uint64_t before = ended_;
  for (Stream* const stream : streams_) {
    const Clock::rep begun = stream->write_begun_;
    if (begun == Stream::kNoWrite || begun > limit || stream->ended_) continue;
    stream->ended_ = true;
    ++ended_;
    // Under the lock: a stream that ends meanwhile waits in Remove(), so this one is still there.
    stream->EndUnread();
  }
  if (ended_ == before) return;
  ended_log_.Warning(
      "ended ", ended_ - before,
      " streams whose clients took nothing of what was written for --write-timeout; ", ended_,
      " so far, ", count(), " streams are open");
}

OpenStreams::Clock::time_point OpenStreams::KeepAlive(Clock::time_point now,
                                                      Clock::time_point latest) {
  for (Stream* const stream : streams_) {
    if (stream->keep_alive_.count() == 0) continue;
    Clock::time_point due = now + stream->keep_alive_;
    if (stream->write_begun_ == Stream::kNoWrite) {
      due = Clock::time_point(Clock::duration(stream->last_write_) + stream->keep_alive_);
    }
    if (due <= now) {
      stream->KeepAlive();  // Under the lock, for the same reason.
      due = now + stream->keep_alive_;
    }
    latest = std::min(latest, due);
  }
  return latest;
}

void OpenStreams::Watch() {
  const milliseconds interval = std::clamp(write_timeout_ / 4, milliseconds(5), milliseconds(1000));
  MutexLock lock(mutex_);
  while (!stop_) {
    const Clock::time_point now = Clock::now();
    EndUnread(now);
    changed_.WaitFor(mutex_, KeepAlive(now, now + interval) - now);
  }
}

}  // namespace tidegate
