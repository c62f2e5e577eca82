#include "base/http_socket.h"

#include <algorithm>
#include <utility>

#include "boost/asio/error.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/write.hpp"

namespace tidegate {

HttpSocket::HttpSocket(Socket socket, std::unique_ptr<TlsStream> tls)
    : socket_(std::move(socket)), secure_(tls != nullptr), tls_(std::move(tls)) {}

void HttpSocket::Read(boost::asio::mutable_buffer to, Done done) {
  if (secure_) return ReadTls(to, std::move(done));
  socket_.async_read_some(to, std::move(done));
}

void HttpSocket::Write(const Parts& parts, Done done) {
  if (!secure_) return boost::asio::async_write(socket_, parts, std::move(done));
  parts_ = parts;
  WriteTls(std::move(done));
}

void HttpSocket::ReadTls(boost::asio::mutable_buffer to, Done done) {
  if (tls_ == nullptr) return End(std::move(done), boost::asio::error::operation_aborted, 0);
  TlsStream::Io io = tls_->ready() ? TlsStream::Io::kMoved : tls_->Handshake();
  size_t got = 0;
  if (tls_->ready()) io = tls_->Read(static_cast<char*>(to.data()), to.size(), got);
  if (io == TlsStream::Io::kMoved) return End(std::move(done), {}, got);
  const auto again = [this, to, done] { ReadTls(to, done); };
  Await(io, again, std::move(done));
}

// A record's worth of the parts: one record each would be a waste for the few bytes of a head.
void HttpSocket::FillRecord() {
  for (boost::asio::const_buffer& part : parts_) {
    const size_t bytes = std::min(part.size(), TlsStream::kRecordBytes - record_.size());
    record_.append(static_cast<const char*>(part.data()), bytes);
    part += bytes;
  }
}

void HttpSocket::WriteTls(Done done) {
  if (tls_ == nullptr) return End(std::move(done), boost::asio::error::operation_aborted, 0);
  for (;;) {
    if (record_.empty()) FillRecord();
    if (record_.empty()) return End(std::move(done), {}, 0);
    size_t sent = 0;
    const TlsStream::Io io = tls_->Write(record_.data(), record_.size(), sent);
    if (io != TlsStream::Io::kMoved) {
      const auto again = [this, done] { WriteTls(done); };
      return Await(io, again, std::move(done));
    }
    record_.erase(0, sent);
  }
}

void HttpSocket::Await(TlsStream::Io io, std::function<void()> again, Done done) {
  if (io == TlsStream::Io::kEnd) return End(std::move(done), boost::asio::error::eof, 0);
  if (io == TlsStream::Io::kFailed) {
    return End(std::move(done), boost::asio::error::connection_reset, 0);
  }
  const auto what = io == TlsStream::Io::kWantRead ? Socket::wait_read : Socket::wait_write;
  socket_.async_wait(what, [again = std::move(again), done](const ErrorCode& error) {
    if (error) return done(error, 0);
    again();
  });
}

void HttpSocket::End(Done done, const ErrorCode& error, size_t bytes) {
  boost::asio::post(socket_.get_executor(),
                    [done = std::move(done), error, bytes] { done(error, bytes); });
}

void HttpSocket::EndWriting() {
  if (tls_ != nullptr) tls_->EndWriting();
  ErrorCode ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
}

void HttpSocket::Close(bool drop) {
  if (drop && tls_ != nullptr) tls_->Abandon();
  tls_.reset();  // says goodbye while the socket is open
  ErrorCode ignored;
  if (drop) socket_.set_option(Socket::linger(true, 0), ignored);
  socket_.close(ignored);
}

}  // namespace tidegate
