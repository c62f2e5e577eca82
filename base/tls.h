// TLS for our servers: one certificate and key, and where clients have to show certificates the
// authorities that sign them. Read from files, and again when these change; connections that are
// open go on with what they began with. A new pair that is broken is not taken: the old one stays,
// and one warning says so.
//
// What is served over a stream is its user's business (connection_gate.h, http_server.h).
// Thread-safe; a thread of its own looks at the files.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/tls_files.h"
#include "base/tls_stream.h"

namespace tidegate {

struct TlsStats {
  int64_t expiry = 0;  // of the certificate in use, in seconds since 1970
  uint64_t reloads = 0, reload_failures = 0;
  uint64_t handshakes = 0, handshake_failures = 0;
};

class TlsServer {
 public:
  // Files are looked at this often, and read once two looks in a row see the same change: until
  // then somebody may be writing.
  static constexpr std::chrono::milliseconds kLookInterval{1000};

  // Errors of LoadTlsContext().
  static absl::StatusOr<std::shared_ptr<TlsServer>> Create(
      const TlsOptions& options, std::chrono::milliseconds look_interval = kLookInterval);
  ~TlsServer();
  TlsServer(const TlsServer&) = delete;
  TlsServer& operator=(const TlsServer&) = delete;

  // Reads the files now; new connections use them. An error leaves everything as it was: it is
  // counted, logged and returned. Does not wait for anything but the files.
  absl::Status Reload();

  // Puts TLS over a connection that was accepted: see TlsStream. `client`: its address. Streams may
  // outlive this object.
  std::unique_ptr<TlsStream> Accept(int fd, TlsProtocol protocol, std::string client);

  TlsStats stats() const;

 private:
  class State;
  explicit TlsServer(std::shared_ptr<State> state);

  const std::shared_ptr<State> state_;
};

}  // namespace tidegate
