#include "base/loopback.h"

#include <gtest/gtest.h>

namespace tidegate::loopback_test {

bool Is(const char* text) {
  const auto address = ParseListenAddress(text);
  EXPECT_TRUE(address.ok()) << address.status();
  return address.ok() && IsLoopback(*address);
}

TEST(IsLoopbackTest, ByTheFormOfTheAddress) {
  for (const char* address :
       {"127.0.0.1:1", "127.9.9.9:1", "localhost:1", "LocalHost:1", "localhost.:1", "a.localhost:1",
        "ip6-localhost:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:/run/x"}) {
    EXPECT_TRUE(Is(address)) << address;
  }
  for (const char* address : {"0.0.0.0:1", "[::]:1", "192.0.2.1:1", "example.org:1",
                              "localhost.example.org:1", "128.0.0.1:1"}) {
    EXPECT_FALSE(Is(address)) << address;
  }
}

}  // namespace tidegate::loopback_test
