#include "base/connection_gate.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "base/gated_connection.h"
#include "base/memory_limit.h"
#include "base/mutex.h"
#include "base/units.h"
#include "tests/support/raw_http2.h"
#include "tests/support/test_support.h"

namespace tidegate::connection_gate_test {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kLimit(20);

// What the gate hands over, as a server would get it.
class Backend {
 public:
  void Take(int fd) {
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    MutexLock lock(mutex_);
    connections_.emplace_back(fd);
  }
  size_t count() {
    MutexLock lock(mutex_);
    return connections_.size();
  }
  int fd(size_t i) {
    MutexLock lock(mutex_);
    return connections_.at(i).get();
  }

 private:
  Mutex mutex_;
  std::vector<UniqueFd> connections_ ABSL_GUARDED_BY(mutex_);
};

class ConnectionGateTest : public testing::Test {
 protected:
  void Start(GateLimits limits = {}, const std::string& address = "127.0.0.1:0") {
    auto gate = ConnectionGate::Start(
        *ParseListenAddress(address), limits, [this](int fd) { backend_.Take(fd); }, stats_);
    ASSERT_TRUE(gate.ok()) << gate.status();
    gate_ = *std::move(gate);
  }
  UniqueFd Connect() {
    UniqueFd fd = ConnectLoopback(gate_->address().port);
    EXPECT_TRUE(fd.valid());
    return fd;
  }
  // A client that the backend knows, and the backend's end.
  std::pair<UniqueFd, int> Client() {
    const size_t before = backend_.count();
    UniqueFd fd = Connect();
    SendAll(fd.get(), RawPreface());
    EXPECT_TRUE(WaitUntil([&] { return backend_.count() > before; }, kLimit));
    return {std::move(fd), backend_.fd(before)};
  }
  uint64_t Closed(CloseReason reason) const { return stats_->closed[static_cast<size_t>(reason)]; }
  static std::string Read(int fd, size_t bytes) {
    std::string got(bytes, '\0');
    EXPECT_EQ(recv(fd, got.data(), bytes, MSG_WAITALL), static_cast<ssize_t>(bytes));
    return got;
  }

  Backend backend_;
  std::unique_ptr<ConnectionGate> gate_;
  const std::shared_ptr<GateStats> stats_ = std::make_shared<GateStats>();
};

TEST_F(ConnectionGateTest, PassesBytesInBothDirections) {
  Start();
  const auto [client, server] = Client();
  const std::string request = RawPreface() + GrpcHeaders(1, "/a/B") + GrpcMessage(1, "hello");
  SendAll(client.get(), request.substr(RawPreface().size()));
  EXPECT_EQ(Read(server, request.size()), request);
  const std::string answer = RawFrame(1, 4, 1, "ok") + RawFrame(0, 1, 1, std::string(50000, 'x'));
  SendAll(server, answer);
  EXPECT_EQ(Read(client.get(), answer.size()), answer);
  EXPECT_EQ(stats_->calls, 1u);
  EXPECT_EQ(stats_->connections, 1);
}

TEST_F(ConnectionGateTest, WhatTheServerSaidLastReachesTheClient) {
  Start();
  auto [client, server] = Client();
  SendAll(server, RawFrame(7, 0, 0, "goodbye!"));
  shutdown(server, SHUT_RDWR);
  EXPECT_EQ(Read(client.get(), 17), RawFrame(7, 0, 0, "goodbye!"));
  EXPECT_TRUE(WaitForClose(client.get(), 10000));
  EXPECT_EQ(Closed(CloseReason::kServer), 1u);
}

TEST_F(ConnectionGateTest, SilentAndForeignConnectionsNeverReachTheServer) {
  GateLimits limits;
  limits.handshake_timeout = milliseconds(1);
  Start(limits);
  const UniqueFd silent = Connect(), foreign = Connect();
  SendAll(foreign.get(), "GET / HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(WaitForClose(foreign.get(), 10000));
  EXPECT_TRUE(WaitForClose(silent.get(), 10000));
  EXPECT_EQ(backend_.count(), 0u);
  EXPECT_EQ(Closed(CloseReason::kHandshakeTimeout) + Closed(CloseReason::kNotHttp2), 2u);
}

TEST_F(ConnectionGateTest, ANewcomerTakesThePlaceOfAConnectionWithoutCalls) {
  GateLimits limits;
  limits.max_connections = 2;
  Start(limits);
  const auto [busy, server] = Client();
  SendAll(busy.get(), GrpcHeaders(1, "/a/B"));
  ASSERT_TRUE(WaitUntil([&] { return stats_->calls == 1; }, kLimit));
  const UniqueFd idle = Connect();
  ASSERT_TRUE(WaitUntil([&] { return stats_->connections == 2; }, kLimit));
  const auto [newcomer, its_server] = Client();
  EXPECT_TRUE(WaitForClose(idle.get(), 10000));
  EXPECT_EQ(Closed(CloseReason::kEvicted), 1u);
  SendAll(newcomer.get(), GrpcHeaders(1, "/a/B"));
  ASSERT_TRUE(WaitUntil([&] { return stats_->calls == 2; }, kLimit));
  const UniqueFd refused = Connect();
  EXPECT_TRUE(WaitForClose(refused.get(), 10000));
  EXPECT_EQ(stats_->refused[static_cast<size_t>(Refusal::kConnections)], 1u);
}

TEST_F(ConnectionGateTest, OneAddressHasItsOwnLimit) {
  GateLimits limits;
  limits.max_connections_per_address = 1;
  Start(limits);
  const auto [busy, server] = Client();
  SendAll(busy.get(), GrpcHeaders(1, "/a/B"));
  ASSERT_TRUE(WaitUntil([&] { return stats_->calls == 1; }, kLimit));
  const UniqueFd refused = Connect();
  EXPECT_TRUE(WaitForClose(refused.get(), 10000));
  EXPECT_EQ(stats_->refused[static_cast<size_t>(Refusal::kAddress)], 1u);
}

// CVE-2023-44487: the server sees a few of them, however many come.
TEST_F(ConnectionGateTest, CallsThatAreCancelledAtOnceWait) {
  Start();
  const auto start = std::chrono::steady_clock::now();
  const auto [client, server] = Client();
  std::string attack;
  for (uint32_t stream = 1; stream < 2000; stream += 2) {
    attack += GrpcHeaders(stream, "/a/B") + GrpcMessage(stream, "") + RstStream(stream);
  }
  send(client.get(), attack.data(), attack.size(), MSG_DONTWAIT);
  ASSERT_TRUE(WaitUntil([&] { return stats_->throttled == 1; }, kLimit));
  const uint64_t calls = stats_->calls;
  const uint64_t turns = 1 + static_cast<uint64_t>((std::chrono::steady_clock::now() - start) /
                                                   CallWindow::kAbandonedTime);
  EXPECT_LE(calls, turns * CallWindow::kSharePlaces);
  EXPECT_EQ(stats_->abandoned_calls, calls);
  // Somebody else is not concerned.
  const auto [other, its_server] = Client();
  SendAll(other.get(), GrpcHeaders(1, "/c/D"));
  const std::string expected = RawPreface() + GrpcHeaders(1, "/c/D");
  EXPECT_EQ(Read(its_server, expected.size()), expected);
  // What an attacker left behind is dropped.
  shutdown(client.get(), SHUT_WR);
  EXPECT_TRUE(WaitForClose(client.get(), 10000));
}

TEST_F(ConnectionGateTest, CallsThatAreAnsweredNeverWait) {
  Start();
  const auto [client, server] = Client();
  Read(server, RawPreface().size());
  const std::string call = GrpcHeaders(1, "/a/B") + GrpcMessage(1, "");
  for (uint32_t stream = 1; stream < 4000; stream += 2) {
    SendAll(client.get(), GrpcHeaders(stream, "/a/B") + GrpcMessage(stream, ""));
    Read(server, call.size());
    const std::string answer = RawFrame(1, 5, stream, "x");
    SendAll(server, answer);
    Read(client.get(), answer.size());
  }
  EXPECT_EQ(stats_->calls, 2000u);
  EXPECT_TRUE(WaitUntil([&] { return stats_->unanswered_calls == 0; }, kLimit));
}

// Calls that are answered and never end (health watches, streams that nobody reads).
TEST_F(ConnectionGateTest, TooManyOpenCallsCostTheConnectionThatHasTheMost) {
  GateLimits limits;
  limits.max_open_calls = 20;
  Start(limits);
  const auto [modest, modest_server] = Client();
  SendAll(modest.get(), GrpcHeaders(1, "/a/B"));
  const auto [greedy, server] = Client();
  for (uint32_t stream = 1; stream < 41; stream += 2) {
    SendAll(greedy.get(), GrpcHeaders(stream, "/a/B"));
    SendAll(server, RawFrame(1, 4, stream, "x"));
  }
  EXPECT_TRUE(WaitForClose(greedy.get(), 10000));
  EXPECT_EQ(Closed(CloseReason::kShed), 1u);
  EXPECT_TRUE(WaitUntil([&] { return stats_->open_calls == 1; }, kLimit));
  EXPECT_FALSE(WaitForClose(modest.get(), 0));
}

TEST_F(ConnectionGateTest, FramesWithoutDataHaveARate) {
  Start();
  const std::pair<UniqueFd, int> ends = Client();
  const int client = ends.first.get(), server = ends.second;
  Read(server, RawPreface().size());
  std::string pings;
  for (int i = 0; i < 10000; ++i) pings += RawFrame(6, 0, 0, "12345678");
  std::string::size_type sent = 0;
  const bool throttled = WaitUntil(
      [&] {
        const ssize_t more = send(client, pings.data() + sent, pings.size() - sent, MSG_DONTWAIT);
        if (more > 0) sent = (sent + static_cast<size_t>(more)) % pings.size();
        char sink[65536];
        recv(server, sink, sizeof(sink), MSG_DONTWAIT);
        return stats_->throttled == 1;
      },
      kLimit);
  EXPECT_TRUE(throttled);
}

TEST_F(ConnectionGateTest, ACallWhoseMessageNeverComesEndsItsConnection) {
  GateLimits limits;
  limits.request_timeout = milliseconds(1);
  Start(limits);
  const auto [client, server] = Client();
  SendAll(client.get(), GrpcHeaders(1, "/a/B"));
  EXPECT_TRUE(WaitForClose(client.get(), 10000));
  EXPECT_EQ(Closed(CloseReason::kRequestTimeout), 1u);
}

// In earnest: this process is the server that grows, by what it keeps of what a client sends.
TEST_F(ConnectionGateTest, WhenMemoryRunsShortTheBusiestGoesAndAnIdleOneStays) {
  GateLimits limits;
  limits.max_memory = ReadOwnMemory() + 40 * kMiB;
  Start(limits);
  const auto [idle, idle_server] = Client();
  Read(idle_server, RawPreface().size());
  const auto [busy, server] = Client();
  const std::string head = GrpcHeaders(1, "/a/B");
  SendAll(busy.get(), head);
  Read(server, RawPreface().size() + head.size());
  SendAll(server, RawFrame(1, 4, 1, "x"));  // an answer: its message is not bounded from then on
  Read(busy.get(), RawFrame(1, 4, 1, "x").size());

  std::vector<std::string> kept;
  const std::string frame = RawFrame(0, 0, 1, std::string(64 << 10, 'x'));
  while (kept.size() < 4000 && SendAll(busy.get(), frame)) {
    kept.emplace_back(frame.size(), '\0');
    if (recv(server, kept.back().data(), frame.size(), MSG_WAITALL) <= 0) break;
  }
  EXPECT_TRUE(WaitForClose(busy.get(), 10000));
  EXPECT_EQ(Closed(CloseReason::kMemory), 1u);
  const auto refused = static_cast<size_t>(Refusal::kMemory);
  EXPECT_TRUE(WaitUntil(
      [&] {
        kept.emplace_back(1 << 20, 'x');  // shedding ends by itself where nothing grows
        return Connect().valid() && stats_->refused[refused] > 0;
      },
      kLimit));

  kept.clear();
  const size_t before = backend_.count();
  EXPECT_TRUE(WaitUntil(
      [&] {
        const UniqueFd newcomer = Connect();
        return SendAll(newcomer.get(), RawPreface()) && !WaitForClose(newcomer.get(), 50) &&
               backend_.count() > before;
      },
      kLimit));
  SendAll(idle.get(), head);
  EXPECT_EQ(Read(idle_server, head.size()), head);
  EXPECT_EQ(Closed(CloseReason::kMemory), 1u);
}

// The descriptor of this process that listens on `port`; -1: none.
int ListeningDescriptor(uint16_t port) {
  int found = -1;
  DIR* const folder = opendir("/proc/self/fd");
  for (const dirent* entry; (entry = readdir(folder)) != nullptr;) {
    const int fd = std::atoi(entry->d_name);
    sockaddr_in name = {};
    socklen_t bytes = sizeof(name);
    int listens = 0;
    socklen_t size = sizeof(listens);
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&name), &bytes) == 0 &&
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens != 0 &&
        ntohs(name.sin_port) == port) {
      found = fd;
    }
  }
  closedir(folder);
  return found;
}

TEST_F(ConnectionGateTest, APortThatDiedListensAgain) {
  Start();
  shutdown(ListeningDescriptor(gate_->address().port), SHUT_RDWR);
  EXPECT_TRUE(WaitUntil([&] { return stats_->relistened == 1; }, kLimit));
  const auto [client, server] = Client();
  EXPECT_TRUE(stats_->listening);
}

TEST_F(ConnectionGateTest, AUnixSocketWhoseFileIsGoneListensAgain) {
  TempDir folder;
  const std::string path = folder.File("socket");
  Start({}, "unix:" + path);
  ASSERT_TRUE(FileExists(path));
  unlink(path.c_str());
  EXPECT_TRUE(WaitUntil([&] { return FileExists(path); }, kLimit));
  gate_.reset();
  EXPECT_FALSE(FileExists(path));
}

TEST_F(ConnectionGateTest, StopClosesWhatIsOpen) {
  Start();
  const auto [client, server] = Client();
  gate_->StopAccepting();
  EXPECT_FALSE(stats_->listening);
  gate_->Stop(milliseconds(0));
  EXPECT_TRUE(WaitForClose(client.get(), 10000));
  EXPECT_EQ(Closed(CloseReason::kStopped), 1u);
}

}  // namespace tidegate::connection_gate_test
