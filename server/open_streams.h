// The Generate and Chat calls that gRPC has not let go of: how many there may be, and that none
// lives for ever because its client reads nothing, or falls silent whose client asked it not to. A
// stream of which the engine is done still costs about 20 KiB while its last message waits for the
// client's window.
//
// Thread-safe. A thread of its own looks at the writes that are out, and at the silence.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_set>
#include <vector>

#include "base/log_burst.h"
#include "base/mutex.h"

namespace tidegate {

class OpenStreams {
 public:
  using Clock = std::chrono::steady_clock;

  // A call, as far as this class sees it.
  class Stream {
   public:
    virtual ~Stream() = default;
    // The client has not taken what was written: cancel the call. Called once at most, between
    // Add() and Remove(); not from within either.
    virtual void EndUnread() = 0;
    // Nothing has been written for as long as Name() said: writes something, without waiting for
    // it. Between Add() and Remove(); not from within either.
    virtual void KeepAlive() {}

    // By the stream, from any thread: a write is out, or none is.
    void WriteBegun() { write_begun_ = Clock::now().time_since_epoch().count(); }
    void WriteDone() {
      last_write_ = Clock::now().time_since_epoch().count();
      write_begun_ = kNoWrite;
    }

    // The same: the engine is done with it, so that Cancel() does not find it any more.
    void Settled() { settled_ = true; }
    // Cancel() has found it.
    bool cancelled() const { return cancelled_; }

   private:
    friend class OpenStreams;
    static constexpr Clock::rep kNoWrite = 0;
    std::atomic<Clock::rep> write_begun_ = kNoWrite, last_write_ = 0;
    std::atomic<bool> settled_ = false, cancelled_ = false;
    // Under the mutex of OpenStreams.
    bool ended_ = false;
    std::string request_id_;  // empty until Name()
    std::string owner_;
    uint64_t engine_id_ = 0;
    Clock::duration keep_alive_{0};  // 0: none is wanted
  };

  OpenStreams(int max_streams, std::chrono::milliseconds write_timeout);
  ~OpenStreams();  // REQUIRES: no stream is left
  OpenStreams(const OpenStreams&) = delete;
  OpenStreams& operator=(const OpenStreams&) = delete;

  // False: there are as many as allowed. The stream is counted and watched all the same until
  // Remove(), since gRPC holds it to tell the client.
  bool Add(Stream* stream);
  void Remove(Stream* stream);

  // Between Add() and Remove(): the ids of a stream that the engine has taken, the client's and the
  // engine's; after which time without a write it is to be kept alive, 0: never; and whose it is
  // (Caller::client(); "" where nobody is told apart).
  void Name(Stream* stream, std::string_view request_id, uint64_t engine_id,
            Clock::duration keep_alive = Clock::duration(0), std::string_view owner = {});
  // What Engine::Cancel() takes of the streams with this request id that are not settled; empty:
  // there is none. Of `owner`'s alone, unless it is "". The caller cancels them, which is harmless
  // for those that end meanwhile.
  std::vector<uint64_t> Cancel(std::string_view request_id, std::string_view owner = {});

  int count() const { return count_; }
  int max() const { return max_streams_; }

 private:
  void Watch();
  // Returns when the next one is due; `latest` at most.
  Clock::time_point KeepAlive(Clock::time_point now, Clock::time_point latest)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndUnread(Clock::time_point now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int max_streams_;
  const std::chrono::milliseconds write_timeout_;
  std::atomic<int> count_ = 0;
  Mutex mutex_;
  CondVar changed_;
  std::unordered_set<Stream*> streams_ ABSL_GUARDED_BY(mutex_);
  uint64_t ended_ ABSL_GUARDED_BY(mutex_) = 0;
  LogBurst ended_log_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread watcher_;
};

}  // namespace tidegate
