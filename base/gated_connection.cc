#include "base/gated_connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace tidegate {
namespace {

// A DATA frame below this size counts as one without data: nobody sends a text in such pieces.
constexpr uint32_t kSmallDataBytes = 64;

constexpr double kAnsweredFrameTokens = 10;

// For a client to take what is left once the server has closed.
constexpr std::chrono::seconds kLastWordsTime{5};

enum class Io { kMoved, kWait, kEnd };

Io IoOf(ssize_t moved) {
  if (moved > 0) return Io::kMoved;
  return moved < 0 && (errno == EAGAIN || errno == EINTR) ? Io::kWait : Io::kEnd;
}

Io IoOf(TlsStream::Io io) {
  if (io == TlsStream::Io::kMoved) return Io::kMoved;
  return io == TlsStream::Io::kWantRead || io == TlsStream::Io::kWantWrite ? Io::kWait : Io::kEnd;
}

// Reads up to a chunk to the end of `buffer`; through `tls`, unless null.
Io Receive(int fd, TlsStream* tls, std::string& buffer) {
  char chunk[GatedConnection::kChunkBytes];
  size_t got = 0;
  Io io = Io::kEnd;
  if (tls != nullptr) {
    io = IoOf(tls->Read(chunk, sizeof(chunk), got));
  } else {
    const ssize_t moved = recv(fd, chunk, sizeof(chunk), MSG_DONTWAIT);
    io = IoOf(moved);
    got = static_cast<size_t>(moved);
  }
  if (io == Io::kMoved) buffer.append(chunk, got);
  return io;
}

// Sends the first `bytes` of `buffer` as far as they go and takes them off; through `tls`, unless
// null.
Io Send(int fd, TlsStream* tls, std::string& buffer, size_t& bytes) {
  if (bytes == 0) return Io::kWait;
  size_t sent = 0;
  Io io = Io::kEnd;
  if (tls != nullptr) {
    io = IoOf(tls->Write(buffer.data(), bytes, sent));
  } else {
    const ssize_t moved = send(fd, buffer.data(), bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    io = IoOf(moved);
    sent = static_cast<size_t>(moved);
  }
  if (io != Io::kMoved) return io;
  buffer.erase(0, sent);
  bytes -= sent;
  if (buffer.empty()) buffer = std::string();  // gives its memory back
  return Io::kMoved;
}

}  // namespace

const char* CloseReasonName(CloseReason reason) {
  static constexpr const char* kNames[kCloseReasons] = {
      "none",    "client", "server", "handshake_timeout", "request_timeout", "not_http2", "tls",
      "evicted", "shed",   "memory", "no_descriptors",    "stopped"};
  return kNames[static_cast<size_t>(reason)];
}

GatedConnection::GatedConnection(uint64_t id, UniqueFd client, std::unique_ptr<TlsStream> tls,
                                 std::string address, CallWindow& window, Counts& counts,
                                 Clock::time_point now)
    : id_(id),
      client_(std::move(client)),
      tls_(std::move(tls)),
      address_(std::move(address)),
      window_(window),
      counts_(counts),
      begun_(now),
      last_active_(now),
      tokens_at_(now) {}

GatedConnection::~GatedConnection() {
  counts_.open_calls -= static_cast<int>(calls_.size());
  window_.CloseShare(share_, Clock::now());
}

bool GatedConnection::TakeControlTokens(double count, Clock::time_point now) {
  const double seconds = std::chrono::duration<double>(now - tokens_at_).count();
  tokens_at_ = now;
  control_tokens_ =
      std::min(kControlFramesAtOnce, control_tokens_ + seconds * kControlFramesPerSecond);
  if (control_tokens_ < count) return false;
  control_tokens_ -= count;
  return true;
}

bool GatedConnection::BeginCall(const Http2Frame& frame, Clock::time_point now) {
  if (!window_.Begin(share_)) return false;
  last_stream_ = frame.stream;
  calls_[frame.stream] = {.complete = frame.ends_stream(), .begun = now};
  ++counts_.calls;
  ++counts_.open_calls;
  load_ += kCallBytes;
  return true;
}

void GatedConnection::EraseCall(std::map<uint32_t, Call>::iterator call) {
  calls_.erase(call);
  --counts_.open_calls;
}

void GatedConnection::EndByClient(uint32_t stream, Clock::time_point now) {
  const auto call = calls_.find(stream);
  if (call == calls_.end()) return;
  if (!call->second.answered) {
    window_.Abandoned(share_, call->second.bytes, id_, now);
    ++counts_.abandoned_calls;
  }
  EraseCall(call);
}

bool GatedConnection::AdmitData(Call& call, const Http2Frame& frame, Clock::time_point now) {
  const bool substantial =
      !call.complete && (frame.bytes >= kSmallDataBytes || frame.ends_stream());
  if (!substantial && !TakeControlTokens(1, now)) return false;
  if (!call.answered) {
    if (!window_.AddBytes(share_, frame.bytes)) return false;
    call.bytes += frame.bytes;
  }
  if (frame.ends_stream()) call.complete = true;
  return true;
}

bool GatedConnection::AdmitFrame(const Http2Frame& frame, Clock::time_point now) {
  if (frame.type == Http2Frame::kHeaders && frame.stream > last_stream_) {
    return BeginCall(frame, now);
  }
  if (frame.type == Http2Frame::kData) {
    const auto call = calls_.find(frame.stream);
    if (call != calls_.end()) return AdmitData(call->second, frame, now);
  }
  const bool wants_answer = frame.type == Http2Frame::kPing || frame.type == Http2Frame::kSettings;
  if (!TakeControlTokens(wants_answer ? kAnsweredFrameTokens : 1, now)) return false;
  if (frame.type == Http2Frame::kRstStream) EndByClient(frame.stream, now);
  return true;
}

void GatedConnection::NoteAnswer(const Http2Frame& frame) {
  const bool reset = frame.type == Http2Frame::kRstStream;
  if (!reset && frame.type != Http2Frame::kHeaders && !frame.ends_stream()) return;
  const auto found = calls_.find(frame.stream);
  if (found == calls_.end()) return;
  Call& call = found->second;
  if (!call.answered) window_.Answered(share_, std::exchange(call.bytes, 0));
  call.answered = true;
  if (reset || frame.ends_stream()) EraseCall(found);
}

CloseReason GatedConnection::PassUp(Clock::time_point now) {
  if (!ready_for_server_) {
    const size_t compared = std::min(up_.size(), kHttp2Preface.size());
    if (up_.compare(0, compared, kHttp2Preface, 0, compared) != 0) return CloseReason::kNotHttp2;
    ready_for_server_ = up_.size() >= kHttp2Preface.size() + Http2Frame::kHeaderBytes;
  }
  if (!server_.valid()) return CloseReason::kNone;
  throttled_ = false;
  up_admitted_ +=
      up_walker_.Walk(std::string_view(up_).substr(up_admitted_), [&](const Http2Frame& frame) {
        const bool admitted = AdmitFrame(frame, now);
        throttled_ = !admitted;
        return admitted;
      });
  // A server that has closed says so to OnServerReadable(), after its last words.
  Send(server_.get(), nullptr, up_, up_admitted_);
  return CloseReason::kNone;
}

CloseReason GatedConnection::PassDown() {
  down_seen_ +=
      down_walker_.Walk(std::string_view(down_).substr(down_seen_), [&](const Http2Frame& frame) {
        NoteAnswer(frame);
        return true;
      });
  if (server_closed_) down_seen_ = down_.size();
  if (Send(client_.get(), tls_.get(), down_, down_seen_) == Io::kEnd) return CloseReason::kClient;
  return server_closed_ && down_.empty() ? CloseReason::kServer : CloseReason::kNone;
}

CloseReason GatedConnection::OnClientReadable(Clock::time_point now) {
  if (handshaking()) {
    const TlsStream::Io io = tls_->Handshake();
    if (io == TlsStream::Io::kEnd) return CloseReason::kClient;
    return io == TlsStream::Io::kFailed ? CloseReason::kTls : CloseReason::kNone;
  }
  const size_t before = up_.size();
  switch (Receive(client_.get(), tls_.get(), up_)) {
    case Io::kEnd:
      return CloseReason::kClient;
    case Io::kWait:
      return CloseReason::kNone;
    case Io::kMoved:
      last_active_ = now;
      load_ += up_.size() - before;
      return PassUp(now);
  }
  return CloseReason::kNone;
}

CloseReason GatedConnection::OnServerReadable(Clock::time_point now) {
  const Io io = Receive(server_.get(), nullptr, down_);
  if (io == Io::kWait) return CloseReason::kNone;
  if (io == Io::kEnd) {
    server_closed_ = true;
    server_closed_at_ = now;
  }
  return PassDown();
}

CloseReason GatedConnection::Continue(Clock::time_point now) {
  CloseReason reason = CloseReason::kNone;
  if (tls_ != nullptr && tls_->wants_write()) reason = OnClientReadable(now);
  if (handshaking() || reason != CloseReason::kNone) return reason;
  reason = PassUp(now);
  return reason == CloseReason::kNone ? PassDown() : reason;
}

CloseReason GatedConnection::CheckDeadlines(Clock::time_point now, Clock::duration handshake,
                                            Clock::duration request) const {
  if (!ready_for_server_) {
    return now - begun_ > handshake ? CloseReason::kHandshakeTimeout : CloseReason::kNone;
  }
  if (server_closed_ && now - server_closed_at_ > kLastWordsTime) return CloseReason::kServer;
  if (share_.held == 0) return CloseReason::kNone;
  for (const auto& [stream, call] : calls_) {
    if (now - call.begun <= request) break;
    if (!call.answered && !call.complete) return CloseReason::kRequestTimeout;
  }
  return CloseReason::kNone;
}

uint32_t GatedConnection::client_events() const {
  // TLS that has something to say itself reads on when that is out.
  const bool tls_writes = tls_ != nullptr && tls_->wants_write();
  const bool reads = !throttled_ && up_admitted_ == 0 && !needs_server() && !tls_writes;
  const bool writes = down_seen_ > 0 || tls_writes;
  return (throttled_ ? EPOLLRDHUP : 0u) | (reads ? EPOLLIN : 0u) | (writes ? EPOLLOUT : 0u);
}

uint32_t GatedConnection::server_events() const {
  const bool reads = !server_closed_ && down_seen_ == 0;
  return (reads ? EPOLLIN : 0u) | (up_admitted_ > 0 ? EPOLLOUT : 0u);
}

}  // namespace tidegate
