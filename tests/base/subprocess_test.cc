#include "base/subprocess.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "base/unique_fd.h"
#include "tests/support/test_support.h"

namespace tidegate::subprocess_test {

using ::testing::HasSubstr;

constexpr std::chrono::seconds kLimit(60);

class SubprocessTest : public ::testing::Test {
 protected:
  // A shell with this script; what it prints goes to "out".
  Subprocess Shell(const std::string& script) const {
    const auto fd = UniqueFd::Open(dir_.File("out"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    auto child = Subprocess::Start({"/bin/sh", "-c", script}, fd->get());
    EXPECT_TRUE(child.ok()) << child.status();
    return *std::move(child);
  }
  std::string Output() const { return ReadFileOrDie(dir_.File("out")); }
  static ProgramEnd EndOf(Subprocess& child) {
    EXPECT_TRUE(WaitUntil([&] { return child.End().has_value(); }, kLimit));
    return child.End().value_or(ProgramEnd{-1, -1});
  }

  TempDir dir_;
};

TEST_F(SubprocessTest, SaysHowItEnded) {
  Subprocess child = Shell("echo to stdout; echo to stderr >&2; exit 3");
  EXPECT_EQ(EndOf(child).exit_code, 3);
  EXPECT_EQ(EndOf(child).signal, 0);
  EXPECT_EQ(EndOf(child).Describe(), "exit code 3");
  EXPECT_EQ(Output(), "to stdout\nto stderr\n");
  child.Signal(SIGTERM);  // Nothing: it has ended.
}

TEST_F(SubprocessTest, GetsSignals) {
  Subprocess child = Shell("exec sleep 600");
  EXPECT_FALSE(child.End().has_value());
  child.Signal(SIGKILL);
  EXPECT_EQ(EndOf(child).signal, SIGKILL);
  EXPECT_THAT(EndOf(child).Describe(), HasSubstr("signal 9 (Killed"));
}

// Whatever its parent blocks or reads.
TEST_F(SubprocessTest, HasASessionOfItsOwnNoInputAndNoBlockedSignals) {
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  Subprocess child = Shell("cat; cut -d ' ' -f 1,6 /proc/$$/stat; grep SigBlk /proc/$$/status");
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  EXPECT_EQ(EndOf(child).exit_code, 0);
  const std::string pid = std::to_string(child.pid());
  EXPECT_THAT(Output(), HasSubstr(pid + " " + pid + "\n"));
  EXPECT_THAT(Output(), HasSubstr("0000000000000000"));
}

TEST_F(SubprocessTest, IsKilledByItsOwner) {
  pid_t pid = 0;
  {
    Subprocess child = Shell("exec sleep 600");
    const Subprocess moved = std::move(child);
    pid = moved.pid();
    EXPECT_EQ(kill(pid, 0), 0);
  }
  EXPECT_NE(kill(pid, 0), 0);
}

// Even if its parent is killed.
TEST_F(SubprocessTest, DoesNotOutliveItsParent) {
  const pid_t parent = fork();
  if (parent == 0) {
    const Subprocess child =
        Shell("trap 'echo asked to end; exit' TERM; echo $$; while :; do sleep 0.02; done");
    for (;;) pause();
  }
  const bool up = WaitUntil(
      [&] { return FileExists(dir_.File("out")) && Output().find('\n') != std::string::npos; },
      kLimit);
  kill(parent, SIGKILL);
  ASSERT_EQ(waitpid(parent, nullptr, 0), parent);
  ASSERT_TRUE(up);
  EXPECT_TRUE(
      WaitUntil([&] { return Output().find("asked to end") != std::string::npos; }, kLimit));
}

TEST_F(SubprocessTest, WhatCannotBeStartedIsNamed) {
  const auto none = Subprocess::Start({dir_.File("none")});
  EXPECT_EQ(none.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("cannot start " + dir_.File("none")));
  WriteFileOrDie(dir_.File("text"), "text");
  EXPECT_EQ(Subprocess::Start({dir_.File("text")}).status().code(),
            absl::StatusCode::kPermissionDenied);
}

TEST_F(SubprocessTest, SiblingsLieBesideTheProgram) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").filename();
  const auto found = SiblingProgram(self);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_TRUE(std::filesystem::equivalent(*found, "/proc/self/exe"));
  EXPECT_THAT(std::string(SiblingProgram("tidegate-none").status().message()),
              HasSubstr("tidegate-none is missing: it has to lie beside " + self));
}

}  // namespace tidegate::subprocess_test
