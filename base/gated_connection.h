// One client's connection on its way to a gRPC server: bytes are passed on in both directions, and
// frames that cost the server something only as fast as it can keep up (CallWindow, and a rate of
// frames that carry no data). What may not pass yet stays with the client: nothing more is read
// from it, so that TCP slows it down, and a client that only had a burst never notices.
//
// Not a parser of HTTP/2: what is malformed is passed on for the server to refuse. Holds at most
// kChunkBytes in each direction. TLS, if there is any, ends here: the server gets clear text. Used
// by the thread of one ConnectionGate alone; no call blocks.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "base/call_window.h"
#include "base/http2_frames.h"
#include "base/tls_stream.h"
#include "base/unique_fd.h"

namespace tidegate {

// Why a connection ended.
enum class CloseReason {
  kNone,              // it has not
  kClient,            // the client closed it, or is gone
  kServer,            // the server closed it: idle or old connections, protocol errors
  kHandshakeTimeout,  // no HTTP/2 preface in time
  kRequestTimeout,    // a call was begun and its message did not come in time
  kNotHttp2,          // the first bytes are no HTTP/2 preface
  kTls,               // no TLS with the client: plaintext, an old version, no certificate that fits
  kEvicted,           // without a call, and a newcomer needed the place
  kShed,              // there were too many open calls, and it had the most
  kMemory,            // memory ran short, and it was among the busiest
  kNoDescriptors,     // no descriptors left for its way to the server
  kStopped,           // the gate stops
};
inline constexpr size_t kCloseReasons = 12;
const char* CloseReasonName(CloseReason reason);

class GatedConnection {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kChunkBytes = TlsStream::kRecordBytes;
  // Frames of a client without data (WINDOW_UPDATE, RST_STREAM, ...) a second, and at once. Those
  // that have to be answered (PING, SETTINGS) count tenfold: gRPC 1.51 takes ten KiB for each PING
  // beyond its own limit, until it has closed the connection.
  static constexpr double kControlFramesPerSecond = 5000;
  static constexpr double kControlFramesAtOnce = 2000;

  // What a call costs a gRPC 1.51 server before it looks at it.
  static constexpr uint64_t kCallBytes = 12 << 10;

  // What clients did; counted up here, read by the gate.
  struct Counts {
    uint64_t calls = 0;            // begun
    uint64_t abandoned_calls = 0;  // ended by the client before any answer
    int open_calls = 0;
  };

  // `client` is non-blocking; `tls` is over it, or null. `window` and `counts` outlive the
  // connection.
  GatedConnection(uint64_t id, UniqueFd client, std::unique_ptr<TlsStream> tls, std::string address,
                  CallWindow& window, Counts& counts, Clock::time_point now);
  ~GatedConnection();
  GatedConnection(const GatedConnection&) = delete;
  GatedConnection& operator=(const GatedConnection&) = delete;

  // The preface has come and there is no way to the server yet.
  bool needs_server() const { return ready_for_server_ && !server_.valid(); }
  // Our end of a stream socket to the server; non-blocking.
  void SetServer(UniqueFd server) { server_ = std::move(server); }

  // Moves what can be moved. kNone: the connection goes on.
  CloseReason OnClientReadable(Clock::time_point now);
  CloseReason OnServerReadable(Clock::time_point now);
  // Either side takes bytes again, or a throttled connection may try once more.
  CloseReason Continue(Clock::time_point now);

  // kHandshakeTimeout or kRequestTimeout once a limit has passed; kServer where the server has
  // closed and the client does not take the last words.
  CloseReason CheckDeadlines(Clock::time_point now, Clock::duration handshake,
                             Clock::duration request) const;

  // Bytes that the client sent, and kCallBytes for each call that it began, in the second before
  // the last EndSecond() and since.
  uint64_t load() const { return past_load_ + load_; }
  void EndSecond() { past_load_ = std::exchange(load_, 0); }

  // epoll events that it waits for.
  uint32_t client_events() const;
  uint32_t server_events() const;

  // A frame waits for the window or the rate: call Continue() after some milliseconds.
  bool throttled() const { return throttled_; }
  bool server_closed() const { return server_closed_; }
  size_t open_calls() const { return calls_.size(); }
  Clock::time_point last_active() const { return last_active_; }  // last bytes of the client
  uint64_t id() const { return id_; }
  int client_fd() const { return client_.get(); }
  int server_fd() const { return server_.get(); }
  const std::string& address() const { return address_; }
  // Who the client is: what its certificate says, else its address.
  const std::string& client() const {
    return tls_ == nullptr || tls_->peer_name().empty() ? address_ : tls_->peer_name();
  }
  CallWindow::Share& share() { return share_; }

 private:
  struct Call {
    bool answered = false;
    bool complete = false;  // the client has sent its message
    size_t bytes = 0;       // taken of the window for its message; 0 once answered
    Clock::time_point begun;
  };

  bool AdmitFrame(const Http2Frame& frame, Clock::time_point now);
  bool BeginCall(const Http2Frame& frame, Clock::time_point now);
  bool AdmitData(Call& call, const Http2Frame& frame, Clock::time_point now);
  bool TakeControlTokens(double count, Clock::time_point now);
  void EndByClient(uint32_t stream, Clock::time_point now);
  void EraseCall(std::map<uint32_t, Call>::iterator call);
  void NoteAnswer(const Http2Frame& frame);
  bool handshaking() const { return tls_ != nullptr && !tls_->ready(); }
  CloseReason PassUp(Clock::time_point now);
  CloseReason PassDown();

  const uint64_t id_;
  UniqueFd client_, server_;
  const std::unique_ptr<TlsStream> tls_;  // says goodbye before client_ closes
  const std::string address_;
  CallWindow& window_;
  Counts& counts_;
  CallWindow::Share share_;
  const Clock::time_point begun_;
  Clock::time_point last_active_;

  Http2FrameWalker up_walker_{kHttp2Preface.size()}, down_walker_{0};
  std::string up_, down_;                   // read and not passed on
  size_t up_admitted_ = 0, down_seen_ = 0;  // bytes at their front that may pass
  bool ready_for_server_ = false;
  bool throttled_ = false;
  bool server_closed_ = false;
  Clock::time_point server_closed_at_;
  std::map<uint32_t, Call> calls_;  // open ones by stream: in order of their begin
  uint32_t last_stream_ = 0;
  uint64_t load_ = 0, past_load_ = 0;
  double control_tokens_ = kControlFramesAtOnce;
  Clock::time_point tokens_at_;
};

}  // namespace tidegate
