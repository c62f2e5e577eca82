// Accepts the connections of a gRPC server, and stands between clients and it: how many there may
// be, and how fast they may send (GatedConnection). gRPC 1.51 itself stops listening for good once
// descriptors run out, and a few connections that send without end occupy all of its threads and
// make it grow without bound: docs/security.md has the figures.
//
// gRPC gets one end of a socket pair for each connection, once the client has sent an HTTP/2
// preface; the gate passes bytes on. It has to see frames in clear: so TLS ends here.
// A connection takes three descriptors.
//
// Threads: one of its own. Start() and Stop() belong to one owner; the stats are anybody's.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "base/gated_connection.h"
#include "base/listen_address.h"
#include "base/tls.h"

namespace tidegate {

struct GateLimits {
  int max_connections = 1024;
  // From one IPv4 address, one IPv6 network of 64 bits, or one user at a Unix socket.
  int max_connections_per_address = 512;
  // Calls given to the server that it has not begun to answer (CallWindow).
  int max_unanswered_calls = 512;
  // Calls of all kinds that are open. Beyond it the connection with the most of them is closed.
  int max_open_calls = 8192;
  // Anonymous memory of the process; 0: as its control group says, if it does (MemoryWatch). Close
  // to it the busiest connections are closed.
  uint64_t max_memory = 0;
  std::chrono::milliseconds handshake_timeout{10000};  // to the HTTP/2 preface, TLS included
  std::chrono::milliseconds request_timeout{60000};    // from a call's header to its whole message
};

// Why a connection was closed as soon as it was accepted.
enum class Refusal { kConnections, kAddress, kMemory };
inline constexpr size_t kRefusals = 3;
const char* RefusalName(Refusal refusal);

// As of about now. Counters only grow.
struct GateStats {
  std::atomic<bool> listening = false;
  std::atomic<int> connections = 0;
  std::atomic<int> throttled = 0;         // connections whose next frame has to wait
  std::atomic<int> unanswered_calls = 0;  // places of the window in use
  std::atomic<int> open_calls = 0;
  std::atomic<uint64_t> accepted = 0;
  std::atomic<uint64_t> relistened = 0;
  std::atomic<uint64_t> calls = 0;
  std::atomic<uint64_t> abandoned_calls = 0;
  std::array<std::atomic<uint64_t>, kRefusals> refused = {};
  std::array<std::atomic<uint64_t>, kCloseReasons> closed = {};
};

class ConnectionGate {
 public:
  // Takes over a connected, non-blocking stream socket, whose peer has a name that says who the
  // client is (ClientOfPeer). Called on the gate's thread.
  using HandOver = std::function<void(int fd)>;

  // Listens and starts; `stats` are filled from then on. Connections are fewer than asked where the
  // process may not have enough descriptors; the log says so. With `tls` clients have to speak it,
  // and the time and places of handshakes are those of connections. Errors of Listen().
  static absl::StatusOr<std::unique_ptr<ConnectionGate>> Start(const ListenAddress& address,
                                                               const GateLimits& limits,
                                                               HandOver hand_over,
                                                               std::shared_ptr<GateStats> stats,
                                                               std::shared_ptr<TlsServer> tls = {});
  ~ConnectionGate();  // Stop() without time
  ConnectionGate(const ConnectionGate&) = delete;
  ConnectionGate& operator=(const ConnectionGate&) = delete;

  // No connection is accepted or handed over any more once this returns; others go on.
  void StopAccepting();
  // Waits until the server has closed its connections and clients have what it said last, at most
  // `flush_time`; then closes all. The file of a Unix socket is removed.
  void Stop(std::chrono::milliseconds flush_time);

  const ListenAddress& address() const;  // with the real port

 private:
  class Loop;
  explicit ConnectionGate(std::unique_ptr<Loop> loop);

  const std::unique_ptr<Loop> loop_;
};

}  // namespace tidegate
