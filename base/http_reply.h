// HttpReply: the answer to one HTTP request, given at once or later, whole or as a stream.
// HttpExchange: the state that it shares with its connection in http_server.cc, nobody else's.
//
// Threads: a reply may be used from any thread, one call at a time; no call blocks. Methods of
// HttpExchange may be called by anybody.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/http_message.h"
#include "base/mutex.h"

namespace tidegate {

class HttpExchange {
 public:
  // `wake` tells the connection that Take() has something new; called from threads of replies,
  // under a lock, until Disconnect().
  HttpExchange(size_t max_unsent_bytes, std::function<void()> wake)
      : max_unsent_bytes_(max_unsent_bytes), wake_(std::move(wake)) {}

  // What the connection is to send next.
  struct Output {
    bool begun = false;      // there is an answer
    bool streaming = false;  // its length is not known
    HttpResponse head;       // only in the first output that has `begun`
    std::string bytes;       // of a stream: what came since the last call
    bool ended = false;      // nothing comes after this
    bool aborted = false;    // nothing comes, and the answer is not complete
  };
  Output Take();
  // What Take() gave is with the kernel; `bytes` of it were a stream's.
  void OnSent(size_t bytes);
  bool aborted();
  // The peer sends nothing any more. A stream is over then; a whole answer may still go out.
  void OnPeerLeft();
  // The connection is gone; later calls of the reply do nothing.
  void Disconnect();

 private:
  friend class HttpReply;

  // What was to be called, and whether it still is: not if the answer is complete. Both calling and
  // destroying it, with what it holds, are for after the lock.
  struct OnGone {
    std::function<void()> callback;
    bool owed = false;
  };
  OnGone TakeOnGone() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Something new for Take().
  void Give() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t max_unsent_bytes_;
  Mutex mutex_;
  std::function<void()> wake_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> on_gone_ ABSL_GUARDED_BY(mutex_);
  std::function<void(bool)> on_sent_ ABSL_GUARDED_BY(mutex_);
  // Counts of what replies gave, what Take() had of it, and what the kernel had.
  uint64_t given_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t sent_ ABSL_GUARDED_BY(mutex_) = 0;
  bool disconnected_ ABSL_GUARDED_BY(mutex_) = false;
  HttpResponse head_ ABSL_GUARDED_BY(mutex_);
  std::string bytes_ ABSL_GUARDED_BY(mutex_);
  size_t unsent_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;
  bool streaming_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool aborted_ ABSL_GUARDED_BY(mutex_) = false;
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
};

// One Send(), or Begin(), any number of Write() and End(). May outlive the server, and then does
// nothing. Destroyed without an answer it answers 500; without End() it cuts the stream off, which
// the peer notices.
class HttpReply {
 public:
  enum class WriteResult {
    kTaken,
    kFull,  // HttpServerOptions::max_unsent_bytes wait for the peer: nothing was taken, try later
    kGone,  // the peer has left, or took nothing for too long
  };

  explicit HttpReply(std::shared_ptr<HttpExchange> exchange) : exchange_(std::move(exchange)) {}
  HttpReply(HttpReply&&) noexcept = default;
  HttpReply& operator=(HttpReply&& other) noexcept;
  ~HttpReply() { GiveUp(); }

  void Send(HttpResponse response);

  // Sends status and headers now; `head.body` is ignored.
  void Begin(HttpResponse head);
  // Queues `bytes`, which may be of any size, behind what waits already.
  WriteResult Write(std::string_view bytes);
  void End();

  // `callback` runs once, when the kernel has all that was given so far (true), or when it is clear
  // that it never will (false): on the server's thread, or here if that is so already. It must not
  // block. One at a time: the next one may be set when this one has been called.
  void WhenSent(std::function<void(bool sent)> callback);
  // Closes the connection, whatever of the answer has not been sent; OnGone() follows.
  void Abort();

  // Bytes of the stream that the kernel has not taken yet.
  size_t unsent_bytes() const;
  // `callback` runs once if the peer leaves before the reply has ended or if the server stops: on
  // the server's thread, or here if that has happened already. It must not block.
  void OnGone(std::function<void()> callback);

 private:
  void GiveUp();

  std::shared_ptr<HttpExchange> exchange_;  // null when moved from
};

}  // namespace tidegate
