#include "base/memory_limit.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "tests/support/test_support.h"

namespace tidegate::memory_limit_test {

class MemoryLimitTest : public testing::Test {
 protected:
  void Write(const std::string& path, const std::string& content) const {
    std::filesystem::create_directories(std::filesystem::path(dir_.File(path)).parent_path());
    WriteFileOrDie(dir_.File(path), content);
  }
  MemoryLimit Read() const { return ReadMemoryLimit(dir_.path()); }

  TempDir dir_;
};

TEST_F(MemoryLimitTest, WithoutGroupsItIsTheMachines) {
  EXPECT_FALSE(Read().by_cgroup);
  EXPECT_GT(Read().bytes, 0u);
}

TEST_F(MemoryLimitTest, TheLeastOfAGroupAndThoseAboveItCounts) {
  Write("proc/self/cgroup", "0::/pod/store\n");
  Write("sys/fs/cgroup/pod/store/memory.max", "max\n");
  Write("sys/fs/cgroup/pod/memory.max", "70000000\n");
  EXPECT_TRUE(Read().by_cgroup);
  EXPECT_EQ(Read().bytes, 70000000u);
  Write("sys/fs/cgroup/pod/store/memory.max", "60000000\n");
  EXPECT_EQ(Read().bytes, 60000000u);
}

TEST_F(MemoryLimitTest, AContainerSeesItsGroupAsTheRoot) {
  Write("proc/self/cgroup", "0::/\n");
  Write("sys/fs/cgroup/memory.max", "50000000\n");
  EXPECT_EQ(Read().bytes, 50000000u);
}

TEST_F(MemoryLimitTest, VersionOneToo) {
  Write("proc/self/cgroup", "12:cpu,cpuacct:/x\n9:memory:/docker/abc\nnonsense\n");
  Write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "40000000\n");
  Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(Read().bytes, 40000000u);
}

TEST_F(MemoryLimitTest, NoLimitIsTheMachines) {
  Write("proc/self/cgroup", "0::/a\n");
  Write("sys/fs/cgroup/a/memory.max", "max\n");
  EXPECT_FALSE(Read().by_cgroup);
}

TEST_F(MemoryLimitTest, WhatIsLeftCountsNeitherFilesNorGroupsWithoutLimit) {
  Write("proc/self/cgroup", "0::/pod/engine\n");
  Write("sys/fs/cgroup/pod/engine/memory.max", "max\n");
  Write("sys/fs/cgroup/pod/memory.max", "1000000\n");
  Write("sys/fs/cgroup/pod/memory.current", "900000\n");
  EXPECT_EQ(ReadGroupMemory(dir_.path())->left, 100000u);
  Write("sys/fs/cgroup/pod/memory.stat",
        "anon 300000\nfile 400000\nshmem 100000\ninactive_file 200000\nactive_file 50000\n");
  EXPECT_EQ(ReadGroupMemory(dir_.path())->left, 350000u);
  EXPECT_EQ(ReadGroupMemory(dir_.path())->limit, 1000000u);
}

TEST_F(MemoryLimitTest, TheGroupThatHasTheLeastLeftCounts) {
  Write("proc/self/cgroup", "0::/pod/engine\n");
  Write("sys/fs/cgroup/pod/engine/memory.max", "1000000\n");
  Write("sys/fs/cgroup/pod/engine/memory.current", "100000\n");
  Write("sys/fs/cgroup/pod/memory.max", "2000000\n");
  Write("sys/fs/cgroup/pod/memory.current", "2000001\n");
  EXPECT_EQ(ReadGroupMemory(dir_.path())->limit, 2000000u);
  EXPECT_EQ(ReadGroupMemory(dir_.path())->left, 0u);
}

TEST_F(MemoryLimitTest, WhatIsLeftInVersionOne) {
  Write("proc/self/cgroup", "9:memory:/docker/abc\n");
  Write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "1000000\n");
  Write("sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "800000\n");
  Write("sys/fs/cgroup/memory/docker/abc/memory.stat",
        "cache 0\ninactive_file 7\nactive_file 7\ntotal_inactive_file 300000\n"
        "total_active_file 1000\n");
  EXPECT_EQ(ReadGroupMemory(dir_.path())->left, 501000u);
}

TEST_F(MemoryLimitTest, WithoutALimitNothingIsSaidOfAGroup) {
  Write("proc/self/cgroup", "9:memory:/a\n0::/a\n");
  Write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n");
  Write("sys/fs/cgroup/a/memory.max", "max\n");
  EXPECT_FALSE(ReadGroupMemory(dir_.path()).has_value());
}

TEST_F(MemoryLimitTest, WhatIsAvailableIsTheKernelsWord) {
  EXPECT_EQ(ReadAvailableMemory(dir_.path()), 0u);
  Write("proc/meminfo", "MemTotal:  9000 kB\nMemFree:  1 kB\nMemAvailable:    5000 kB\nX: 7 kB\n");
  EXPECT_EQ(ReadAvailableMemory(dir_.path()), 5000u * 1024);
  Write("proc/meminfo", "MemAvailable:\nX: 7 kB\n");
  EXPECT_EQ(ReadAvailableMemory(dir_.path()), 0u);
  EXPECT_GT(ReadAvailableMemory(), 0u);
}

TEST_F(MemoryLimitTest, OwnMemoryIsWhatIsAnonymous) {
  Write("proc/self/statm", "5000 300 100 7 0 200 0\n");
  EXPECT_EQ(ReadOwnMemory(dir_.path()), 200u * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)));
  Write("proc/self/statm", "nonsense\n");
  EXPECT_EQ(ReadOwnMemory(dir_.path()), 0u);
  EXPECT_GT(ReadOwnMemory(), 0u);
}

}  // namespace tidegate::memory_limit_test
