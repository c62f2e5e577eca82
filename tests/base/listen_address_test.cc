#include "base/listen_address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>

#include "tests/support/test_support.h"

namespace tidegate::listen_address_test {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

std::string RoundTrip(const std::string& text) {
  const absl::StatusOr<ListenAddress> address = ParseListenAddress(text);
  return address.ok() ? address->ToString() : std::string(address.status().message());
}

TEST(ParseListenAddress, TakesNamesAddressesAndPaths) {
  for (const std::string text :
       {"127.0.0.1:0", "localhost:50051", "[::1]:9464", "[::]:65535", "my_host-1.local:1",
        "unix:/run/tidegate/engine.sock", "unix:relative"}) {
    EXPECT_EQ(RoundTrip(text), text);
  }
}

TEST(ParseListenAddress, RefusesWhatWouldBeMisread) {
  const auto expect = [](const std::string& text, const std::string& why) {
    const absl::StatusOr<ListenAddress> address = ParseListenAddress(text);
    ASSERT_FALSE(address.ok()) << text;
    EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(address.status().message()), HasSubstr(why)) << text;
  };
  expect("127.0.0.1:99999", "'99999' is not a number from 0 to 65535");
  expect("127.0.0.1:", "the port is missing");
  expect("127.0.0.1", "the port is missing");
  expect("127.0.0.1:-1", "'-1'");
  expect("127.0.0.1:+5", "'+5'");
  expect("127.0.0.1: 5", "' 5'");
  expect("127.0.0.1:00000000000050051", "is not a number");
  expect("127.0.0.1:http", "'http'");
  expect("999.1.1.1:0", "'999.1.1.1' is neither");
  expect("127.1:80", "'127.1' is neither");
  expect(":50051", "the host is missing");
  expect("::1:50051", "brackets");
  expect("[127.0.0.1]:1", "no IPv6 address");
  expect("[::g]:1", "no IPv6 address");
  expect("a b:1", "'a b' is neither");
  expect("", "the port is missing");
  expect("unix:", "is missing");
  expect("unix:" + std::string(108, 'p'), "has a path of 108 bytes; the system takes at most 107");
  expect("bad\nhost:1", "'bad\\nhost'");
}

TEST(ParseServerAddress, KnowsNoPortZero) {
  EXPECT_EQ(ParseServerAddress("[::1]:1")->ToString(), "[::1]:1");
  EXPECT_EQ(ParseServerAddress("unix:/run/x")->unix_path, "/run/x");
  const std::string zero(ParseServerAddress("localhost:0").status().message());
  EXPECT_THAT(zero, HasSubstr("the port '0' is not a number from 1 to 65535"));
  const std::string none(ParseServerAddress("localhost:").status().message());
  EXPECT_THAT(none, AllOf(HasSubstr("the port is missing"), Not(HasSubstr("free"))));
}

TEST(Listen, TakesAFreePortAndTellsWhich) {
  const auto socket = Listen({.host = "127.0.0.1", .port = 0, .unix_path = ""}, 8);
  ASSERT_TRUE(socket.ok()) << socket.status();
  EXPECT_GT(socket->address.port, 0);
  const auto second = Listen(socket->address, 8);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()),
              AllOf(HasSubstr(socket->address.ToString()), HasSubstr("another program")));
}

TEST(Listen, TakesIpv6) {
  const auto socket = Listen({.host = "::1", .port = 0, .unix_path = ""}, 8);
  if (!socket.ok()) GTEST_SKIP() << "no IPv6 here: " << socket.status();
  EXPECT_EQ(socket->address.ToString(), "[::1]:" + std::to_string(socket->address.port));
}

TEST(Listen, NamesAHostThatIsNotOurs) {
  const auto socket = Listen({.host = "192.0.2.1", .port = 0, .unix_path = ""}, 8);
  ASSERT_FALSE(socket.ok());
  EXPECT_THAT(std::string(socket.status().message()), HasSubstr("192.0.2.1:0"));
}

TEST(Listen, TakesTheLongestPathAndReplacesOnlyDeadSockets) {
  const TempDir folder;
  std::string path = folder.path() + "/";
  path += std::string(kMaxSocketPathBytes - path.size(), 's');
  const ListenAddress address{.host = "", .port = 0, .unix_path = path};
  {
    const auto socket = Listen(address, 8);
    ASSERT_TRUE(socket.ok()) << socket.status();
    EXPECT_FALSE(Listen(address, 8).ok()) << "somebody listens there";
  }
  EXPECT_TRUE(Listen(address, 8).ok()) << "nobody listens any more";

  const std::string file = folder.path() + "/file";
  std::ofstream(file) << "precious";
  EXPECT_FALSE(Listen({.host = "", .port = 0, .unix_path = file}, 8).ok());
  EXPECT_EQ(access(file.c_str(), F_OK), 0) << "a file that is no socket must stay";
}

}  // namespace tidegate::listen_address_test
