#include "cli/interrupt.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/shutdown.h"
#include "cli/line_reader.h"

namespace tidegate::interrupt_test {

// Runs `body` in a process of its own, which must not return from it; gives the wait status.
template <typename Body>
int StatusOf(const Body& body) {
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(60);
    HandleShutdownSignals();
    body();
    _exit(99);
  }
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status;
}

TEST(InterruptGuardTest, TheFirstSignalIsACall) {
  const int status = StatusOf([] {
    std::atomic<bool> called = false;
    InterruptGuard guard([&] { called = true; });
    kill(getpid(), SIGTERM);
    while (!called) usleep(1000);
    _exit(guard.interrupted() && guard.signal() == SIGTERM ? 0 : 1);
  });
  ASSERT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

// Also in a conversation, where Ctrl-C at the prompt is an event.
TEST(InterruptGuardTest, TheSecondSignalEndsTheProcess) {
  const int status = StatusOf([] {
    LineReader reader(STDIN_FILENO);
    std::atomic<bool> called = false;
    InterruptGuard guard([&] { called = true; });
    kill(getpid(), SIGINT);
    while (!called) usleep(1000);
    kill(getpid(), SIGINT);
    for (;;) usleep(1000);
  });
  ASSERT_TRUE(WIFSIGNALED(status)) << status;
  EXPECT_EQ(WTERMSIG(status), SIGINT);
}

TEST(InterruptGuardTest, AfterItTheFirstSignalEndsTheProcess) {
  const int status = StatusOf([] {
    {
      InterruptGuard guard([] {});
    }
    kill(getpid(), SIGINT);
    for (;;) usleep(1000);
  });
  ASSERT_TRUE(WIFSIGNALED(status)) << status;
}

}  // namespace tidegate::interrupt_test
