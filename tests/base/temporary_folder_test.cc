#include "base/temporary_folder.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "tests/support/test_support.h"

namespace tidegate::temporary_folder_test {

namespace fs = std::filesystem;

TEST(TemporaryFolderTest, GoesWithAllThatIsInIt) {
  TempDir parent;
  std::string path;
  {
    auto made = TemporaryFolder::Create(parent.path());
    ASSERT_TRUE(made.ok()) << made.status();
    path = made->path();
    WriteFileOrDie(made->File("a"), "a");
    fs::create_directories(path + "/b/c");
    const TemporaryFolder moved = std::move(*made);
    EXPECT_EQ(moved.path(), path);
    EXPECT_EQ(fs::status(path).permissions(), fs::perms::owner_all);
  }
  EXPECT_FALSE(FileExists(path));
}

TEST(TemporaryFolderTest, GoesWhenASignalEndsTheProcess) {
  TempDir parent;
  const pid_t pid = fork();
  if (pid == 0) {
    HandleShutdownSignals();
    auto folder = TemporaryFolder::Create(parent.path());
    if (!folder.ok()) _exit(1);
    WriteFileOrDie(folder->File("a"), "a");
    folder->File("never");
    raise(SIGTERM);
    _exit(2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFSIGNALED(status)) << status;
  EXPECT_TRUE(fs::is_empty(parent.path()));
}

TEST(TemporaryFolderTest, TheParentIsNamed) {
  const auto folder = TemporaryFolder::Create("/nonexistent");
  EXPECT_EQ(folder.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(folder.status().message().find("/nonexistent"), absl::string_view::npos);
}

}  // namespace tidegate::temporary_folder_test
