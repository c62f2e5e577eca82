#include "base/server_pair.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace tidegate::server_pair_test {

// The name of the other end, as gRPC writes it. "" if it has none.
std::string PeerOf(int fd) {
  sockaddr_un address = {};
  socklen_t bytes = sizeof(address);
  EXPECT_EQ(getpeername(fd, reinterpret_cast<sockaddr*>(&address), &bytes), 0);
  const size_t path = bytes - offsetof(sockaddr_un, sun_path);
  return path == 0 ? "" : "unix-abstract:" + std::string(address.sun_path + 1, path - 1);
}

TEST(ServerPair, TheServersEndSaysWhoTheClientIs) {
  const std::string longest(64, 'x');
  const std::vector<std::string> clients = {"192.0.2.1", "2001:db8::", "::1", "uid:1000", longest};
  for (const std::string& client : clients) {
    const auto pair = MakeServerPair(client);
    ASSERT_TRUE(pair.has_value());
    EXPECT_EQ(ClientOfPeer(PeerOf(pair->server.get())), client);
    EXPECT_EQ(PeerOf(pair->gate.get()), "");
  }
}

TEST(ServerPair, BytesGoBothWaysAndReadsDoNotBlock) {
  const auto pair = MakeServerPair("192.0.2.1");
  ASSERT_TRUE(pair.has_value());
  char byte = 0;
  for (const auto& [from, to] : {std::pair(pair->gate.get(), pair->server.get()),
                                 std::pair(pair->server.get(), pair->gate.get())}) {
    EXPECT_EQ(recv(to, &byte, 1, 0), -1);
    EXPECT_EQ(errno, EAGAIN);
    EXPECT_EQ(send(from, "x", 1, 0), 1);
    EXPECT_EQ(recv(to, &byte, 1, 0), 1);
  }
}

TEST(ServerPair, ManyOfOneClientHaveNamesOfTheirOwn) {
  std::vector<ServerPair> pairs;
  std::set<std::string> names;
  for (int i = 0; i < 50; ++i) {
    pairs.push_back(*MakeServerPair("192.0.2.1"));
    const std::string name = PeerOf(pairs.back().server.get());
    EXPECT_EQ(ClientOfPeer(name), "192.0.2.1");
    names.insert(name);
  }
  EXPECT_EQ(names.size(), pairs.size());
}

TEST(ServerPair, ADescriptorThatIsUsedAgainHasItsOwnClient) {
  int before = -1;
  {
    const auto pair = MakeServerPair("192.0.2.1");
    before = pair->server.get();
  }
  const auto pair = MakeServerPair("192.0.2.2");
  EXPECT_EQ(pair->server.get(), before);
  EXPECT_EQ(ClientOfPeer(PeerOf(pair->server.get())), "192.0.2.2");
}

TEST(ServerPair, OtherPeersAreNobody) {
  for (const char* peer :
       {"", "unix:", "unix:/run/x.sock", "ipv4:192.0.2.1:5000",
        "unix-abstract:", "unix-abstract:other/0123456789abcdef/192.0.2.1",
        "unix-abstract:tidegate-client/", "unix-abstract:tidegate-client/0123456789abcdef",
        "unix-abstract:tidegate-client/0123456789abcdef0/192.0.2.1",
        "tidegate-client/0123456789abcdef/192.0.2.1"}) {
    EXPECT_EQ(ClientOfPeer(peer), "") << peer;
  }
}

}  // namespace tidegate::server_pair_test
