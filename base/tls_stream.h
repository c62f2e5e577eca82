// TLS over one connected, non-blocking socket, at the server's end. No call blocks: where the
// socket has nothing to give or to take, the caller is told what to wait for (level-triggered).
//
// Made by TlsServer::Accept(). A call does one step of a handshake, or reads or writes one record.
// As long as Read() has room for kRecordBytes, nothing that it could give lies here afterwards:
// what comes next shows at the socket. Used by one thread at a time.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

struct ssl_st;  // SSL: OpenSSL's headers stay in base/tls*.cc

namespace tidegate {

enum class TlsProtocol {
  kHttp2,  // for gRPC; a client that does not ask for "h2" (ALPN) is refused
  kHttp1,  // one that does not ask for anything is served
};

// Who is told how handshakes end. Thread-safe.
class TlsHandshakes {
 public:
  virtual ~TlsHandshakes() = default;
  virtual void Done() = 0;
  virtual void Failed(const std::string& client, const std::string& why) = 0;
};

class TlsStream {
 public:
  static constexpr size_t kRecordBytes = 16 << 10;

  enum class Io {
    kMoved,      // some bytes; of a handshake: it is done
    kWantRead,   // call again when the socket can be read
    kWantWrite,  // call again when the socket takes bytes
    kEnd,        // the peer has said goodbye
    kFailed,     // the stream is of no use any more
  };

  // `ssl` becomes the stream's, `fd` does not, and must outlive it. `client`: its address, for the
  // log.
  TlsStream(ssl_st* ssl, int fd, TlsProtocol protocol, std::string client,
            std::shared_ptr<TlsHandshakes> handshakes);
  ~TlsStream();  // says goodbye, if the socket takes it
  TlsStream(const TlsStream&) = delete;
  TlsStream& operator=(const TlsStream&) = delete;

  // A step of the handshake. kEnd: the client has left without a word. kFailed: it has been told
  // why, in clear if it spoke so.
  Io Handshake();
  bool ready() const { return ready_; }  // the handshake is done
  // Gives up to `room` bytes of one record.
  Io Read(char* to, size_t room, size_t& got);
  // Takes what it can of `bytes`. After kWantWrite the next call brings at least the same bytes.
  Io Write(const char* from, size_t bytes, size_t& sent);
  // The last Handshake() or Read() waits for the socket to take bytes.
  bool wants_write() const { return wants_write_; }
  // Nothing is written any more; the peer is told.
  void EndWriting();
  // No goodbye: the peer is to see that something is missing.
  void Abandon() { failed_ = true; }

  // Who the client is by its certificate, within 64 bytes: "uri:spiffe://prod/batch",
  // "dns:gateway.example" or "cn:alice" (the first name of the first kind that it has); "KIND-" and
  // a hash of a name that is longer or has other characters than an address may. "" without one.
  const std::string& peer_name() const { return peer_name_; }

 private:
  Io Outcome(int result);
  Io Fail(const std::string& why);
  Io RefusePlaintext();

  ssl_st* const ssl_;
  const int fd_;
  const TlsProtocol protocol_;
  const std::string client_;
  const std::shared_ptr<TlsHandshakes> handshakes_;
  bool begun_ = false, ready_ = false, failed_ = false, wants_write_ = false;
  std::string peer_name_;
};

}  // namespace tidegate
