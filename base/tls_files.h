// Certificate, key and client CA of a server as OpenSSL wants them: PEM files, read, checked
// against each other and turned into a context for new connections. Behind tls.h, which keeps the
// newest. Stateless, thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

struct ssl_ctx_st;  // SSL_CTX: OpenSSL's headers stay in base/tls*.cc

namespace tidegate {

enum class TlsVersion { k12, k13 };

struct TlsOptions {
  std::string certificate_file = {};  // the server's own, then those of its issuers; "": no TLS
  std::string key_file = {};          // of the certificate; without a passphrase
  // Not "": every client has to show a certificate that one of these has signed.
  std::string client_ca_file = {};
  TlsVersion min_version = TlsVersion::k12;

  bool on() const { return !certificate_file.empty(); }
};

struct TlsContext {
  std::shared_ptr<ssl_ctx_st> ssl;
  int64_t expiry = 0;   // of the server's certificate, in seconds since 1970
  std::string subject;  // of the same, printable, for the log
};

// Errors name flag, file and remedy: those of ReadFile(); INVALID_ARGUMENT where a file holds
// something else, the key has a passphrase, or it is that of another certificate.
absl::StatusOr<TlsContext> LoadTlsContext(const TlsOptions& options);

// What the files look like from outside: differs once one of them was replaced, written or swapped
// behind a symbolic link, as Kubernetes does with mounted secrets.
std::string FingerprintOfFiles(const TlsOptions& options);

}  // namespace tidegate
