// A client of TLS over a blocking socket, for tests of what servers accept and refuse.
//
// Thread-compatible. A wait of 20 s ends in an error.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "tests/support/test_certificates.h"

namespace tidegate {

struct TlsClientOptions {
  std::string ca_pem = {};  // that the server's certificate is checked against; "": it is not
  TestCertificate certificate = {};  // shown if the server asks for one
  std::string alpn = "h2";           // "": none is offered
  bool only_tls11 = false;           // nothing newer is offered
};

class TlsClient {
 public:
  // Connects to 127.0.0.1:`port` and shakes hands. UNAVAILABLE says what OpenSSL says. With TLS 1.3
  // a server that refuses the client's certificate says so after that: Read() has the error.
  static absl::StatusOr<TlsClient> Connect(uint16_t port, const TlsClientOptions& options = {});
  TlsClient(TlsClient&&) noexcept;
  ~TlsClient();

  absl::Status Send(std::string_view bytes);
  // Exactly so many bytes. OUT_OF_RANGE: the server has said goodbye.
  absl::StatusOr<std::string> Read(size_t bytes);
  // All until the server says goodbye; an error if it ends without.
  absl::StatusOr<std::string> ReadToEnd();
  // The subject's common name of the server's certificate.
  std::string ServerName() const;

 private:
  struct Session;
  explicit TlsClient(std::unique_ptr<Session> session);
  // At least a byte.
  absl::StatusOr<size_t> Receive(char* to, size_t room);

  std::unique_ptr<Session> session_;
};

}  // namespace tidegate
