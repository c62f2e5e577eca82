#include "base/descriptors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "base/unique_fd.h"

namespace tidegate::descriptors_test {

TEST(Descriptors, TheSoftLimitIsRaisedToTheHardOne) {
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 64;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  EXPECT_EQ(DescriptorLimit(), 64);
  EXPECT_GT(RaiseDescriptorLimit(), 64);
  rlimit after = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, before.rlim_max);
  setrlimit(RLIMIT_NOFILE, &before);
}

TEST(Descriptors, OpenOnesAreCounted) {
  const int before = OpenDescriptors();
  const UniqueFd one(open("/dev/null", O_RDONLY)), two(open("/dev/null", O_RDONLY));
  EXPECT_EQ(OpenDescriptors(), before + 2);
}

TEST(Descriptors, ConnectionsAreAsManyAsLeaveSomeForOthers) {
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = static_cast<rlim_t>(OpenDescriptors()) + 64;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  EXPECT_EQ(AffordableConnections(10, 3), 10);
  const int possible = AffordableConnections(1000, 3);
  EXPECT_GT(possible, 10);
  EXPECT_LE(possible * 3, 64 - 8);
  setrlimit(RLIMIT_NOFILE, &before);
}

}  // namespace tidegate::descriptors_test
