#include "base/live_listener.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <string>

#include "tests/support/raw_http2.h"
#include "tests/support/test_support.h"

namespace tidegate::live_listener_test {

using Outcome = LiveListener::Outcome;

TEST(LiveListener, AcceptsAndNamesThePeer) {
  auto listener = LiveListener::Create(*ParseListenAddress("127.0.0.1:0"));
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_EQ(listener->Accept().outcome, Outcome::kNothing);
  const UniqueFd client = ConnectLoopback(listener->address().port);
  const LiveListener::Accepted accepted = listener->Accept();
  ASSERT_EQ(accepted.outcome, Outcome::kAccepted);
  EXPECT_EQ(accepted.peer, "127.0.0.1");
}

TEST(LiveListener, AtAUnixSocketThePeerIsAUser) {
  TempDir folder;
  const std::string path = folder.File("socket");
  auto listener = LiveListener::Create(*ParseListenAddress("unix:" + path));
  ASSERT_TRUE(listener.ok()) << listener.status();
  const UniqueFd client(socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(listener->Accept().peer, "uid:" + std::to_string(geteuid()));
}

// An IPv4 client of an IPv6 socket counts as its IPv4 address.
TEST(LiveListener, MappedAddressesAreIpv4) {
  auto listener = LiveListener::Create(*ParseListenAddress("[::]:0"));
  if (!listener.ok()) GTEST_SKIP() << listener.status();
  const UniqueFd client = ConnectLoopback(listener->address().port);
  ASSERT_TRUE(client.valid());
  EXPECT_EQ(listener->Accept().peer, "127.0.0.1");
}

TEST(LiveListener, ADeadSocketIsNoticedAndRevivedOnTheSamePort) {
  auto listener = LiveListener::Create(*ParseListenAddress("127.0.0.1:0"));
  ASSERT_TRUE(listener.ok());
  const uint16_t port = listener->address().port;
  EXPECT_TRUE(listener->Lives());
  shutdown(listener->fd(), SHUT_RDWR);
  EXPECT_FALSE(listener->Lives());
  EXPECT_EQ(listener->Accept().outcome, Outcome::kDead);
  ASSERT_TRUE(listener->Revive().ok());
  EXPECT_TRUE(listener->Lives());
  EXPECT_EQ(listener->address().port, port);
  EXPECT_TRUE(ConnectLoopback(port).valid());
}

TEST(LiveListener, AUnixSocketGoesWithItsListenerUnlessSomebodyElseTookThePath) {
  TempDir folder;
  const std::string path = folder.File("socket");
  auto first = LiveListener::Create(*ParseListenAddress("unix:" + path));
  ASSERT_TRUE(first.ok());
  unlink(path.c_str());
  EXPECT_FALSE(first->Lives());
  {
    auto second = LiveListener::Create(*ParseListenAddress("unix:" + path));
    ASSERT_TRUE(second.ok());
    { const LiveListener gone = *std::move(first); }
    EXPECT_TRUE(FileExists(path)) << "the second one's file";
  }
  EXPECT_FALSE(FileExists(path));
}

}  // namespace tidegate::live_listener_test
