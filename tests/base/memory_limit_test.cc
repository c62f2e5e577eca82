#include "base/memory_limit.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/test_support.h"

namespace tidegate {
namespace {

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

}  // namespace
}  // namespace tidegate
