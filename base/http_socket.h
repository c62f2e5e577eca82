// A connection of the HTTP server: bytes in and out, in clear or through TLS. Asio's part of it is
// visible here, so this is for http_server.cc alone. One thread, the one that runs the io_context.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "base/tls_stream.h"
#include "boost/asio/buffer.hpp"
#include "boost/asio/generic/stream_protocol.hpp"

namespace tidegate {

class HttpSocket {
 public:
  using Socket = boost::asio::generic::stream_protocol::socket;
  using ErrorCode = boost::system::error_code;
  // Called by the io_context, never from within the call that it was given to. It has to keep the
  // socket alive.
  using Done = std::function<void(const ErrorCode& error, size_t bytes)>;
  using Parts = std::array<boost::asio::const_buffer, 3>;

  // `tls` is over `socket`, or null. Its handshake is part of the first Read().
  HttpSocket(Socket socket, std::unique_ptr<TlsStream> tls);

  // One at a time. Gives what has come, at least a byte; error eof: the peer sends no more.
  void Read(boost::asio::mutable_buffer to, Done done);
  // One at a time. Everything has been taken, or an error.
  void Write(const Parts& parts, Done done);
  void EndWriting();
  // Who the peer is by its certificate (TlsStream); "" without one. Until Close().
  std::string peer_name() const { return tls_ == nullptr ? "" : tls_->peer_name(); }
  // `drop`: what the peer has not taken is lost, instead of left to the kernel. What is under way
  // ends with an error.
  void Close(bool drop);

 private:
  void ReadTls(boost::asio::mutable_buffer to, Done done);
  void WriteTls(Done done);
  void FillRecord();
  // After a step of TLS: goes on with `again` when the socket is ready for it, or ends.
  void Await(TlsStream::Io io, std::function<void()> again, Done done);
  void End(Done done, const ErrorCode& error, size_t bytes);

  Socket socket_;
  const bool secure_;
  std::unique_ptr<TlsStream> tls_;  // null once closed
  Parts parts_;                     // being written through TLS, less what is in record_
  std::string record_;
};

}  // namespace tidegate
