// Where our servers listen: reading the address that somebody typed, and binding it.
//
// One reader for gRPC, metrics and HTTP, so that all accept and refuse the same. Not here:
// accepting connections, TLS. Stateless, thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace tidegate {

// Bytes of the longest path that a Unix socket can have: sun_path, less the NUL at its end.
inline constexpr size_t kMaxSocketPathBytes = 107;

// Checks the length of a Unix socket's path; INVALID_ARGUMENT names path, length and limit.
absl::Status CheckSocketPath(std::string_view path);

struct ListenAddress {
  std::string host;       // a name or a numeric address, IPv6 without brackets; "" for Unix sockets
  uint16_t port = 0;      // 0: a free one
  std::string unix_path;  // "" for TCP

  bool is_unix() const { return !unix_path.empty(); }
  // "HOST:PORT", "[IPV6]:PORT" or "unix:PATH".
  std::string ToString() const;
};

// Reads "HOST:PORT" (a name, an IPv4 address or an IPv6 address in brackets; port 0 to 65535) or
// "unix:PATH". INVALID_ARGUMENT names the text and what is wrong with it; names are not looked up
// yet.
absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view text);

// The same for an address that a client dials: port 0 is none.
absl::StatusOr<ListenAddress> ParseServerAddress(std::string_view text);

struct ListeningSocket {
  UniqueFd fd;            // bound, listening, non-blocking, close-on-exec
  ListenAddress address;  // with the port that was really bound
};

// Binds and listens. A Unix socket that nobody listens on any more is replaced; the file is the
// caller's to remove. "[::]" takes IPv4 as well where the host allows it. Errors: UNAVAILABLE when
// the address is taken, unknown or not of this machine.
absl::StatusOr<ListeningSocket> Listen(const ListenAddress& address, int backlog);

}  // namespace tidegate
