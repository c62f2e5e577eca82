#include "base/http_server.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/http_beast.h"
#include "base/http_body_share.h"
#include "base/http_framing.h"
#include "base/http_socket.h"
#include "base/log.h"
#include "base/peer_name.h"
#include "base/status_macros.h"
#include "base/tls.h"
#include "boost/asio/io_context.hpp"
#include "boost/asio/posix/stream_descriptor.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/thread_pool.hpp"

namespace tidegate {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using ErrorCode = boost::system::error_code;
using Clock = std::chrono::steady_clock;

constexpr int kBacklog = 256;
constexpr size_t kReadBytes = 4096;
// How long a closed connection listens for the peer's end, without which the kernel would answer
// what is still under way with a reset, and the peer could lose our last answer.
constexpr std::chrono::milliseconds kLingerTime{1000};
constexpr std::chrono::milliseconds kAcceptPause{100};
constexpr std::chrono::minutes kBetweenWarnings{1};
constexpr char kFull[] =
    "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    "Content-Length: 21\r\n\r\ntoo many connections\n";

class Connection;

}  // namespace

// On the I/O thread unless said otherwise.
struct HttpServer::Impl {
  Impl(HttpServerOptions o, std::vector<HttpRoute> r, ListeningSocket listening);

  void Accept();
  void AcceptOne();
  // accept(2) has failed: makes room where descriptors or memory are short, or waits a little.
  void AcceptLater(int error);
  // Closes the connection that has kept us waiting longest. False if none does.
  bool MakeRoom();
  void Remove(const std::shared_ptr<Connection>& connection);
  void Stop();

  const HttpServerOptions options;
  const std::vector<HttpRoute> routes;
  const ListenAddress address;
  std::atomic<size_t> open = 0;        // any thread
  std::atomic<uint64_t> shed = 0;      // any thread
  std::atomic<size_t> body_bytes = 0;  // any thread
  bool stopping = false;
  Clock::time_point last_warning = Clock::now() - kBetweenWarnings;
  asio::io_context io{1};
  asio::posix::stream_descriptor listener{io};
  asio::steady_timer accept_timer{io};
  std::set<std::shared_ptr<Connection>> connections;
  asio::thread_pool handlers;
  std::thread thread;
};

namespace {

using Server = HttpServer::Impl;

// One connection: reads a request, has it answered, reads the next. On the I/O thread alone.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Server& server, HttpSocket::Socket socket, std::unique_ptr<TlsStream> tls,
             std::string peer)
      : server_(server),
        socket_(std::move(socket), std::move(tls)),
        timer_(server.io),
        peer_(std::move(peer)) {}

  void Start() { AwaitRequest(server_.options.head_timeout); }
  // `drop`: what the peer has not taken is lost, instead of left to the kernel.
  void Close(bool drop = false);
  // Since when the peer has kept us waiting, if it does. Peers that take an answer come last.
  std::optional<std::pair<bool, Clock::time_point>> waiting() const;

 private:
  // kHead and kBody: the peer is to send. kAnswer: handler and writing. kLinger: the peer is to
  // close.
  enum class State { kHead, kBody, kAnswer, kLinger, kClosed };

  void AwaitRequest(std::chrono::milliseconds timeout);
  void SetDeadline(std::chrono::milliseconds timeout);
  void OnDeadline();
  void Read();
  void OnRead(const ErrorCode& error, size_t bytes);
  void Parse();
  void ParseHead();
  void OnHead();
  void ParseBody();
  void Dispatch();
  void Refuse(HttpResponse response);
  void Continue();
  void NewExchange();
  void Flush();
  void OnWritten(const ErrorCode& error);
  void Finish();

  Server& server_;
  HttpSocket socket_;
  asio::steady_timer timer_;
  const std::string peer_;
  uint64_t deadline_number_ = 0;  // tells a deadline from those before it
  State state_ = State::kHead;
  Clock::time_point since_;             // when the present state or write began
  std::array<char, kReadBytes> chunk_;  // being read
  std::string buffer_;                  // read and not parsed
  std::optional<HttpParser> parser_;
  HttpBodyShare body_share_;
  const HttpRoute* route_ = nullptr;
  HttpTarget target_;
  std::shared_ptr<HttpExchange> exchange_;
  HttpFraming framing_{false, false, false};
  HttpFraming::Frame frame_;  // being written
  bool reading_ = false;
  bool writing_ = false;
  bool peer_left_ = false;     // it has closed its side
  bool head_started_ = false;  // the first byte of a request has come
};

std::optional<std::pair<bool, Clock::time_point>> Connection::waiting() const {
  if (state_ == State::kClosed || (state_ == State::kAnswer && !writing_)) return std::nullopt;
  return std::pair(writing_, since_);
}

void Connection::AwaitRequest(std::chrono::milliseconds timeout) {
  state_ = State::kHead;
  since_ = Clock::now();
  head_started_ = false;
  framing_ = HttpFraming(false, false, false);
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(server_.options.max_head_bytes));
  parser_->body_limit(server_.options.max_body_bytes);
  body_share_ = HttpBodyShare(&server_.body_bytes);
  SetDeadline(timeout);
  buffer_.empty() ? Read() : Parse();
}

void Connection::SetDeadline(std::chrono::milliseconds timeout) {
  timer_.expires_after(timeout);
  timer_.async_wait([self = shared_from_this(), number = ++deadline_number_](const ErrorCode&) {
    if (number == self->deadline_number_) self->OnDeadline();
  });
}

void Connection::OnDeadline() {
  if (state_ == State::kClosed) return;
  if (state_ == State::kBody || (state_ == State::kHead && head_started_)) {
    return Refuse(HttpTextResponse(408, "the request took too long"));
  }
  Close(writing_);
}

// At most one read is out; while an answer is being made it tells that the peer has left.
void Connection::Read() {
  if (peer_left_ && state_ != State::kAnswer) return Close();
  if (reading_ || peer_left_ || buffer_.size() >= server_.options.max_head_bytes) return;
  reading_ = true;
  socket_.Read(asio::buffer(chunk_),
               [self = shared_from_this()](const ErrorCode& error, size_t bytes) {
                 self->reading_ = false;
                 self->OnRead(error, bytes);
               });
}

void Connection::OnRead(const ErrorCode& error, size_t bytes) {
  if (state_ == State::kClosed) return;
  if (error) {
    peer_left_ = true;
    // A peer may close its side behind its request and still wait for the answer.
    if (error != asio::error::eof || state_ != State::kAnswer) return Close();
    exchange_->OnPeerLeft();
    return Flush();
  }
  buffer_.append(chunk_.data(), bytes);
  if (state_ == State::kAnswer) return Read();
  Parse();
}

void Connection::Parse() {
  if (state_ == State::kHead) return ParseHead();
  if (state_ == State::kBody) return ParseBody();
  buffer_.clear();  // kLinger
  Read();
}

void Connection::ParseHead() {
  if (!head_started_) {
    head_started_ = true;
    SetDeadline(server_.options.head_timeout);
  }
  ErrorCode error;
  buffer_.erase(0, parser_->put(asio::buffer(buffer_), error));
  if (error && error != http::error::need_more) return Refuse(RefusalOf(error));
  if (parser_->is_header_done()) return OnHead();
  if (buffer_.size() >= server_.options.max_head_bytes) {
    return Refuse(RefusalOf(http::error::header_limit));
  }
  Read();
}

void Connection::OnHead() {
  const auto& head = parser_->get();
  const bool is_http10 = head.version() < 11;
  framing_ = HttpFraming(is_http10, head.method() == http::verb::head, parser_->keep_alive());
  if (auto wrong = RefusalOfHead(*parser_)) return Refuse(*std::move(wrong));
  absl::StatusOr<HttpTarget> target = ParseHttpTarget(StdString(head.target()));
  if (!target.ok()) return Refuse(HttpTextResponse(400, std::string(target.status().message())));
  target_ = *std::move(target);
  HttpResponse refusal;
  route_ = FindHttpRoute(server_.routes, StdString(head.method_string()), target_.path, refusal);
  if (route_ == nullptr) return Refuse(std::move(refusal));
  if (parser_->is_done()) return Dispatch();
  state_ = State::kBody;
  since_ = Clock::now();
  SetDeadline(server_.options.body_timeout);
  parser_->eager(true);
  if (head.count(http::field::expect) != 0 && !is_http10 && buffer_.empty()) return Continue();
  ParseBody();
}

// The peer holds the body back until we say that we want it.
void Connection::Continue() {
  static constexpr char kContinue[] = "HTTP/1.1 100 Continue\r\n\r\n";
  writing_ = true;
  socket_.Write(
      {asio::buffer(kContinue, sizeof(kContinue) - 1)},
      [self = shared_from_this()](const ErrorCode& error, size_t) { self->OnWritten(error); });
  Read();
}

void Connection::ParseBody() {
  while (!parser_->is_done() && !buffer_.empty()) {
    ErrorCode error;
    buffer_.erase(0, parser_->put(asio::buffer(buffer_), error));
    if (error == http::error::need_more) break;
    if (error) return Refuse(RefusalOf(error));
  }
  if (body_share_.Grow(parser_->get().body().size()) > server_.options.max_total_body_bytes) {
    return Refuse(HttpTextResponse(503, "too many large requests at once"));
  }
  if (parser_->is_done()) return Dispatch();
  // Only the frame of a chunk has to be whole before it is taken out of the buffer.
  if (buffer_.size() >= server_.options.max_head_bytes) {
    return Refuse(RefusalOf(http::error::bad_chunk_extension));
  }
  Read();
}

void Connection::NewExchange() {
  // The connection outlives `wake`: Close() disconnects the exchange.
  exchange_ = std::make_shared<HttpExchange>(server_.options.max_unsent_bytes, [this] {
    asio::post(server_.io, [self = shared_from_this()] { self->Flush(); });
  });
  state_ = State::kAnswer;
  ++deadline_number_;  // the peer has done its part
  timer_.cancel();
}

void Connection::Dispatch() {
  NewExchange();
  HttpRequest request = TakeRequest(*parser_);
  request.path = std::move(target_.path);
  request.query = std::move(target_.query);
  request.peer = socket_.peer_name().empty() ? peer_ : socket_.peer_name();
  parser_.reset();
  asio::post(
      server_.handlers,
      [handler = &route_->handler, request = std::move(request), share = std::move(body_share_),
       reply = HttpReply(exchange_)]() mutable { (*handler)(request, std::move(reply)); });
  Read();
}

// Answers without a handler. What is left of the request is not read as the next one.
void Connection::Refuse(HttpResponse response) {
  const bool in_step = parser_->is_done() && (response.code == 404 || response.code == 405);
  if (!in_step) framing_.Close();
  if (server_.options.on_refusal) {
    server_.options.on_refusal(response, StdString(parser_->get()[http::field::origin]));
  }
  parser_.reset();
  body_share_ = HttpBodyShare();  // before the peer has taken the answer
  NewExchange();
  HttpReply(exchange_).Send(std::move(response));
}

// Hands to the kernel what the reply has given since the last time.
void Connection::Flush() {
  if (state_ != State::kAnswer) return;
  if (writing_) return exchange_->aborted() ? Close(true) : void();
  HttpExchange::Output output = exchange_->Take();
  if (output.aborted) return Close(true);  // dropping, so that an HTTP/1.0 peer sees it, too
  if (!output.begun) return;
  frame_ = framing_.Next(std::move(output));
  const HttpSocket::Parts parts = {asio::buffer(frame_.parts[0]), asio::buffer(frame_.parts[1]),
                                   asio::buffer(frame_.parts[2])};
  if (asio::buffer_size(parts) == 0 && !frame_.last) return;
  writing_ = true;
  since_ = Clock::now();
  SetDeadline(server_.options.write_timeout);
  socket_.Write(parts, [self = shared_from_this()](const ErrorCode& error, size_t) {
    self->OnWritten(error);
  });
}

void Connection::OnWritten(const ErrorCode& error) {
  writing_ = false;
  if (state_ == State::kClosed || state_ == State::kBody) return;  // that was "100 Continue"
  if (error) return Close();
  ++deadline_number_;
  const HttpFraming::Frame frame = std::exchange(frame_, {});
  exchange_->OnSent(frame.stream_bytes);
  frame.last ? Finish() : Flush();
}

// The answer is out.
void Connection::Finish() {
  exchange_->Disconnect();
  exchange_.reset();
  if (framing_.keep_alive() && (!peer_left_ || !buffer_.empty())) {
    return AwaitRequest(server_.options.idle_timeout);
  }
  if (peer_left_) return Close();
  state_ = State::kLinger;
  since_ = Clock::now();
  socket_.EndWriting();
  SetDeadline(kLingerTime);
  Parse();
}

void Connection::Close(bool drop) {
  if (state_ == State::kClosed) return;
  const auto self = shared_from_this();
  state_ = State::kClosed;
  ++deadline_number_;
  timer_.cancel();
  socket_.Close(drop);
  if (exchange_ != nullptr) exchange_->Disconnect();
  server_.Remove(self);
}

}  // namespace

HttpServer::Impl::Impl(HttpServerOptions o, std::vector<HttpRoute> r, ListeningSocket listening)
    : options(std::move(o)),
      routes(std::move(r)),
      address(std::move(listening.address)),
      handlers(options.handler_threads) {
  listener.assign(listening.fd.get());
  (void)listening.fd.release();
}

void HttpServer::Impl::Accept() {
  listener.async_wait(asio::posix::stream_descriptor::wait_read, [this](const ErrorCode& error) {
    if (!error && !stopping) AcceptOne();
  });
}

// One at a time, so that those who are here already are heard before more come.
void HttpServer::Impl::AcceptOne() {
  sockaddr_storage peer = {};
  socklen_t peer_bytes = sizeof(peer);
  UniqueFd fd(accept4(listener.native_handle(), reinterpret_cast<sockaddr*>(&peer), &peer_bytes,
                      SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd.valid()) return AcceptLater(errno);
  if (connections.size() >= options.max_connections) {
    if (!MakeRoom()) {
      ++shed;
      if (options.tls == nullptr) {
        (void)send(fd.get(), kFull, sizeof(kFull) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
      }
      return Accept();
    }
  }
  const int on = 1;
  if (!address.is_unix()) setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  HttpSocket::Socket socket(io);
  ErrorCode error;
  socket.assign(asio::generic::stream_protocol(peer.ss_family, 0), fd.get(), error);
  if (!error) {
    std::string name = PeerName(fd.get(), peer);
    std::unique_ptr<TlsStream> tls;
    if (options.tls != nullptr) tls = options.tls->Accept(fd.get(), TlsProtocol::kHttp1, name);
    (void)fd.release();
    const auto connection =
        std::make_shared<Connection>(*this, std::move(socket), std::move(tls), std::move(name));
    connections.insert(connection);
    open = connections.size();
    connection->Start();
  }
  Accept();
}

void HttpServer::Impl::AcceptLater(int error) {
  if (error == EAGAIN || error == EINTR || error == ECONNABORTED) return Accept();
  if (Clock::now() - last_warning >= kBetweenWarnings) {
    last_warning = Clock::now();
    LogWarning("http on ", address.ToString(),
               ": cannot accept a connection: ", std::strerror(error));
  }
  const bool short_of = error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
  if (short_of && MakeRoom()) return AcceptOne();  // before somebody else takes the place
  accept_timer.expires_after(kAcceptPause);
  accept_timer.async_wait([this](const ErrorCode& cancelled) {
    if (!cancelled && !stopping) Accept();
  });
}

bool HttpServer::Impl::MakeRoom() {
  std::shared_ptr<Connection> longest;
  for (const auto& connection : connections) {
    if (!connection->waiting().has_value()) continue;
    if (longest == nullptr || *connection->waiting() < *longest->waiting()) longest = connection;
  }
  if (longest == nullptr) return false;
  ++shed;
  longest->Close();
  return true;
}

void HttpServer::Impl::Remove(const std::shared_ptr<Connection>& connection) {
  connections.erase(connection);
  open = connections.size();
}

void HttpServer::Impl::Stop() {
  stopping = true;
  ErrorCode ignored;
  listener.close(ignored);
  accept_timer.cancel();
  for (const auto& connection : std::set(connections)) connection->Close();
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const ListenAddress& listen,
                                                              std::vector<HttpRoute> routes,
                                                              HttpServerOptions options) {
  ASSIGN_OR_RETURN(ListeningSocket socket, Listen(listen, kBacklog));
  try {
    auto impl = std::make_unique<Impl>(std::move(options), std::move(routes), std::move(socket));
    impl->Accept();
    impl->thread = std::thread([io = &impl->io] { io->run(); });
    return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
  } catch (const std::exception& error) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve HTTP on ", listen.ToString(), ": ", error.what(),
                     "; threads or descriptors are short (ulimit -u, -n)"));
  }
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() {
  asio::post(impl_->io, [impl = impl_.get()] { impl->Stop(); });
  impl_->thread.join();
  impl_->handlers.stop();  // what has not begun has no peer any more
  impl_->handlers.join();
  if (impl_->address.is_unix()) unlink(impl_->address.unix_path.c_str());
}

const ListenAddress& HttpServer::address() const { return impl_->address; }

HttpServer::Stats HttpServer::stats() const { return {impl_->open, impl_->shed}; }

}  // namespace tidegate
