// The HTTP server of the product: HTTP/1.1 and 1.0 over TCP or a Unix socket. It knows nothing of
// what it serves; metrics_server.h is its first user.
//
// One thread does all reading and writing and never waits for a peer; others, or one, run handlers.
// A handler gets a request and a reply, and answers now or later, whole or as
// a stream, from any thread. Everything that a peer can spend is bounded (HttpServerOptions). Where
// all connections are taken, the one that has kept us waiting longest makes room, so that idle or
// slow peers never keep others out.
// Not here: compression, files, access control. Why Boost.Beast lies
// behind it: docs/decisions/0008-one-http-server.md.
// Threads: Start() and the destructor belong to one owner; see http_reply.h for replies.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/http_route.h"
#include "base/listen_address.h"

namespace tidegate {

class TlsServer;

struct HttpServerOptions {
  size_t max_connections = 64;
  size_t max_head_bytes = 16 << 10;        // of a request
  size_t max_body_bytes = 1 << 20;         // of a request
  size_t max_total_body_bytes = 64 << 20;  // of all requests that no handler is done with
  size_t max_unsent_bytes = 1 << 20;       // of a stream, beyond which Write() takes nothing
  // For the whole head of a request, from the connection or from the head's first byte.
  std::chrono::milliseconds head_timeout{5'000};
  // For the whole body of a request.
  std::chrono::milliseconds body_timeout{30'000};
  // Between two requests of a connection.
  std::chrono::milliseconds idle_timeout{90'000};
  // For the peer to take a whole answer, or what waits of a stream.
  std::chrono::milliseconds write_timeout{30'000};
  size_t handler_threads = 1;
  // Called for what the server answers itself, before it is sent, with the request's Origin header
  // ("" if there is none or it was not read): may change all of it. On the server's thread.
  std::function<void(HttpResponse& refusal, std::string_view origin)> on_refusal = {};
  // Not null: the server speaks HTTPS, and a handshake counts as a part of the first head.
  std::shared_ptr<TlsServer> tls = {};
};

class HttpServer {
 public:
  struct Stats {
    size_t connections = 0;         // open now
    uint64_t connections_shed = 0;  // closed or refused for want of places or descriptors
  };

  // Listens and serves until destroyed. Errors: UNAVAILABLE when the address cannot be bound or
  // threads and descriptors are short.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const ListenAddress& listen,
                                                           std::vector<HttpRoute> routes,
                                                           HttpServerOptions options = {});
  // Closes all connections at once and returns when no handler runs any more.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // With the port that was really bound.
  const ListenAddress& address() const;
  // By anybody, handlers included.
  Stats stats() const;

  struct Impl;  // http_server.cc

 private:
  explicit HttpServer(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace tidegate
