#include "packer/atomic_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "tests/support/test_support.h"

namespace tidegate::atomic_file_test {

size_t FileCount(const TempDir& dir) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(dir.path()), {}));
}

// Both ways: a file without a name, and a named temporary one.
class AtomicFileTest : public ::testing::TestWithParam<bool> {};

TEST_P(AtomicFileTest, AppearsCompleteAndReplacesTheOldOne) {
  TempDir dir;
  WriteFileOrDie(dir.File("f"), "old");
  auto file = AtomicFile::Create(dir.File("f"), GetParam());
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(WriteAt(file->fd(), 0, "new", 3).ok());
  EXPECT_EQ(ReadFileOrDie(dir.File("f")), "old");
  ASSERT_TRUE(file->Commit().ok());
  EXPECT_EQ(ReadFileOrDie(dir.File("f")), "new");
  EXPECT_EQ(FileCount(dir), 1u);
}

TEST_P(AtomicFileTest, LeavesNothingWithoutACommit) {
  TempDir dir;
  {
    auto file = AtomicFile::Create(dir.File("f"), GetParam());
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE(WriteAt(file->fd(), 0, "new", 3).ok());
    const AtomicFile moved = *std::move(file);  // The moved-from one must not clean up.
    EXPECT_FALSE(FileExists(dir.File("f")));
  }
  EXPECT_EQ(FileCount(dir), 0u);
}

TEST_P(AtomicFileTest, AKilledProcessLeavesNoFileUnderTheName) {
  TempDir dir;
  const pid_t child = fork();
  if (child == 0) {
    auto file = AtomicFile::Create(dir.File("f"), GetParam());
    if (file.ok() && WriteAt(file->fd(), 0, "new", 3).ok()) kill(getpid(), SIGKILL);
    _exit(1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_FALSE(FileExists(dir.File("f")));
  EXPECT_LE(FileCount(dir), GetParam() ? 0u : 1u) << "an unnamed file vanishes with its process";
}

TEST_P(AtomicFileTest, FoldersThatCannotBeWrittenAreNamed) {
  TempDir dir;
  const auto missing = AtomicFile::Create(dir.File("no/f"), GetParam());
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), ::testing::HasSubstr(dir.File("no")));
  EXPECT_FALSE(AtomicFile::Create(dir.path(), GetParam()).ok());
  if (geteuid() == 0) return;  // Nothing is forbidden to root.
  ASSERT_EQ(chmod(dir.path().c_str(), 0555), 0);
  const auto forbidden = AtomicFile::Create(dir.File("f"), GetParam());
  ASSERT_EQ(chmod(dir.path().c_str(), 0755), 0);
  EXPECT_EQ(forbidden.status().code(), absl::StatusCode::kPermissionDenied);
}

INSTANTIATE_TEST_SUITE_P(BothWays, AtomicFileTest, ::testing::Bool(),
                         [](const auto& row) { return row.param ? "Unnamed" : "Named"; });

}  // namespace tidegate::atomic_file_test
