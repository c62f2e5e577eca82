#include "base/shutdown.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "tests/support/test_support.h"

namespace tidegate::shutdown_test {

// Runs `body` in a process of its own, which must not return from it; gives the wait status.
int StatusOf(const std::function<void()>& body) {
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(60);
    body();
    _exit(99);
  }
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

TEST(ShutdownTest, ASignalEndsAtOnceAndRemovesWhatIsRegistered) {
  TempDir dir;
  const std::string folder = dir.File("folder"), file = dir.File("folder/file");
  const std::string released = dir.File("released"), moved = dir.File("moved");
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
    mkdir(folder.c_str(), 0700);
    for (const std::string& path : {file, released, moved}) WriteFileOrDie(path, "x");
    const int status = StatusOf([&] {
      HandleShutdownSignals();
      const RemovedAtEnd outer(folder), inner(file);
      { const RemovedAtEnd ended(released); }
      RemovedAtEnd a(moved);
      const RemovedAtEnd b = std::move(a);
      raise(number);
    });
    ASSERT_TRUE(WIFSIGNALED(status)) << status;
    EXPECT_EQ(WTERMSIG(status), number);
    EXPECT_FALSE(FileExists(file));
    EXPECT_FALSE(FileExists(folder));
    EXPECT_FALSE(FileExists(moved));
    EXPECT_TRUE(FileExists(released));
  }
}

TEST(ShutdownTest, TheFirstSignalIsWaitedForAndTheSecondEndsAtOnce) {
  TempDir dir;
  WriteFileOrDie(dir.File("file"), "x");
  const int status = StatusOf([&] {
    HandleShutdownSignals();
    const RemovedAtEnd file(dir.File("file"));
    ShutdownSignal shutdown;
    std::thread([] { kill(getpid(), SIGINT); }).detach();
    if (shutdown.Wait() != SIGINT || !FileExists(dir.File("file"))) _exit(1);
    raise(SIGTERM);
  });
  ASSERT_TRUE(WIFSIGNALED(status)) << status;
  EXPECT_EQ(WTERMSIG(status), SIGTERM);
  EXPECT_FALSE(FileExists(dir.File("file")));
}

TEST(ShutdownTest, AnIgnoredHangUpStaysIgnored) {
  const int status = StatusOf([] {
    signal(SIGHUP, SIG_IGN);
    HandleShutdownSignals();
    raise(SIGHUP);
    _exit(7);
  });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

TEST(ShutdownTest, AHangUpThatIsWaitedForDoesNotEndTheProcess) {
  const int status = StatusOf([] {
    HandleShutdownSignals();
    {
      HangUpSignal hang_up;
      raise(SIGHUP);
      raise(SIGHUP);
      if (!hang_up.Wait()) _exit(1);
      std::thread([&] { hang_up.StopWaiting(); }).detach();
      if (hang_up.Wait()) _exit(2);
    }
    raise(SIGHUP);
  });
  ASSERT_TRUE(WIFSIGNALED(status)) << status;
  EXPECT_EQ(WTERMSIG(status), SIGHUP);
}

// A terminal that is closed ends what runs in it, as ever; `nohup` is for what should go on.
TEST(ShutdownTest, AHangUpOfTheTerminalEndsTheProcess) {
  for (const bool ignored : {false, true}) {
    int terminal = -1;
    const pid_t pid = forkpty(&terminal, nullptr, nullptr, nullptr);
    if (pid == 0) {
      alarm(60);
      if (ignored) signal(SIGHUP, SIG_IGN);
      HandleShutdownSignals();
      HangUpSignal hang_up;
      raise(SIGHUP);  // while the terminal is there
      if (!hang_up.Wait() || write(STDOUT_FILENO, "x", 1) != 1) _exit(1);
      _exit(hang_up.Wait() ? 7 : 2);
    }
    ASSERT_GT(pid, 0);
    char byte = 0;
    EXPECT_EQ(read(terminal, &byte, 1), 1);
    close(terminal);
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    if (ignored) {
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7) << status;
    } else {
      EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGHUP) << status;
    }
  }
}

TEST(ShutdownTest, MoreFilesThanTheTableHoldsAreNoHarm) {
  const int status = StatusOf([] {
    HandleShutdownSignals();
    std::vector<RemovedAtEnd> files;
    for (int i = 0; i < 70; ++i) files.emplace_back("/nonexistent/" + std::to_string(i));
    files.emplace_back(std::string(10000, 'x'));
    files.clear();
    raise(SIGTERM);
  });
  EXPECT_TRUE(WIFSIGNALED(status)) << status;
}

// Whatever hangs: here the thread that should stop, for ever.
TEST(ShutdownTest, AHardEndSaysWhyAndLeavesNothingBehind) {
  TempDir dir;
  WriteFileOrDie(dir.File("file"), "x");
  const int status = StatusOf([&] {
    if (dup2(creat(dir.File("log").c_str(), 0600), STDERR_FILENO) < 0) _exit(1);
    const RemovedAtEnd file(dir.File("file"));
    EndProcessAt(std::chrono::steady_clock::now() + std::chrono::milliseconds(20), "it hangs");
    for (;;) pause();
  });
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), kHardEndExitCode);
  EXPECT_FALSE(FileExists(dir.File("file")));
  EXPECT_THAT(ReadFileOrDie(dir.File("log")), testing::HasSubstr("it hangs; ending anyway"));
}

}  // namespace tidegate::shutdown_test
