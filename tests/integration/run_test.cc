// `tidegate run` on the demo model: one answer, a prompt through a pipe, a conversation on a
// terminal, and what is left behind of each.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>

#include "tests/support/daemons.h"

namespace tidegate::run_test {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class RunTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir();
    // Packs, so that no test says that it does.
    const RunResult first = RunProgram(Command({"Once"}));
    ASSERT_EQ(first.exit_code, 0) << first.err;
    ASSERT_THAT(first.err, HasSubstr("packing"));
  }
  static void TearDownTestSuite() { delete dir_; }

  static std::vector<std::string> Command(const std::vector<std::string>& extra) {
    std::vector<std::string> command = {BinaryPath("tidegate"),
                                        "run",
                                        DemoModelPath(),
                                        "--cache-dir",
                                        dir_->File("cache"),
                                        "--memory",
                                        "7MiB",
                                        "--temperature",
                                        "0",
                                        "--reproducible",
                                        "--threads",
                                        "1",
                                        "-n",
                                        "8"};
    command.insert(command.end(), extra.begin(), extra.end());
    return command;
  }
  static std::string FirstPack() {
    for (const auto& entry : fs::directory_iterator(dir_->File("cache"))) {
      if (entry.path().extension() == ".tgpack") return entry.path().string();
    }
    return "";
  }
  static RunResult RunWith(const std::vector<std::string>& extra) {
    return RunProgram(Command(extra), kDaemonLimit);
  }
  // Through a shell; `before` and `after` stand around the command.
  static RunResult RunShell(const std::string& before, const std::vector<std::string>& extra,
                            const std::string& after) {
    std::string line = before;
    for (const std::string& word : Command(extra)) line += " '" + word + "'";
    return RunProgram({"/bin/sh", "-c", line + after}, kDaemonLimit);
  }

  static inline TempDir* dir_ = nullptr;
};

TEST_F(RunTest, OnePromptGetsOneAnswer) {
  const RunResult run = RunWith({"Once upon a time"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, Not(IsEmpty()));
  EXPECT_EQ(run.err, "");
  // Through a pipe it is the same, but for line breaks at its end.
  EXPECT_EQ(RunShell("printf 'Once upon a time\\n\\n' |", {}, "").out, run.out);
  EXPECT_EQ(RunShell("", {"Once upon a time"}, " </dev/null").out, run.out);
  // And as `generate` answers it.
  Daemons daemons(FirstPack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start());
  const RunResult generated =
      RunProgram({BinaryPath("tidegate"), "generate", "Once upon a time", "--server",
                  daemons.address(), "--temperature", "0", "--reproducible", "-n", "8", "-q"});
  EXPECT_EQ(generated.out, run.out);
}

TEST_F(RunTest, AccountsAreForTheTerminal) {
  const RunResult run = RunWith({"Once upon a time", "--accounts", "--ignore-eos"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.err, HasSubstr("8 tokens,"));
}

TEST_F(RunTest, AModelWithATemplateAnswers) {
  WriteFileOrDie(dir_->File("chat.jinja"),
                 "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
  const RunResult plain = RunWith({"Hi"});
  const RunResult chat = RunWith(
      {"Hi", "--chat-template", dir_->File("chat.jinja"), "--system", "Tom had a red ball."});
  ASSERT_EQ(chat.exit_code, 0) << chat.err;
  EXPECT_NE(chat.out, plain.out);
  const RunResult refused = RunWith({"Hi", "--system", "Tom had a red ball."});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("the model has no chat template"));
}

TEST_F(RunTest, MistakesAreNamed) {
  EXPECT_THAT(RunShell("", {}, " </dev/null").err, HasSubstr("no prompt: give one"));
  EXPECT_THAT(RunWith({"Hi", "--kv-tokens", "x"}).err, HasSubstr("--kv-tokens: 'x'"));
}

// What the programs say is not mixed into the answer, and not lost.
TEST_F(RunTest, WhatWentWrongIsInALog) {
  const RunResult run = RunShell("TMPDIR=" + dir_->path(), {"Hi", "--lora", "/nonexistent"}, "");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_EQ(run.out, "");
  EXPECT_THAT(run.err, HasSubstr("tidegate-engine ended with exit code 1 while it started"));
  EXPECT_THAT(run.err, HasSubstr("/nonexistent"));
  const size_t at = run.err.find(dir_->path() + "/tidegate-run-");
  ASSERT_NE(at, std::string::npos) << run.err;
  const std::string log = run.err.substr(at, run.err.find('\n', at) - at);
  EXPECT_THAT(ReadFileOrDie(log), HasSubstr("/nonexistent"));
}

// A terminal whose other end is this test.
class Terminal {
 public:
  Terminal() : fd_(posix_openpt(O_RDWR | O_NOCTTY)) {
    CHECK(fd_ >= 0 && grantpt(fd_) == 0 && unlockpt(fd_) == 0);
    name_ = ptsname(fd_);
  }
  ~Terminal() { close(fd_); }
  Terminal(const Terminal&) = delete;
  void Type(const std::string& text) const {
    CHECK(write(fd_, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  }
  const std::string& name() const { return name_; }

 private:
  const int fd_;
  std::string name_;
};

TEST_F(RunTest, ATerminalIsAConversationAndNothingIsLeft) {
  Terminal terminal;
  TempDir temporary;
  std::string line = "exec";
  for (const std::string& word : Command({})) line += " '" + word + "'";
  ChildProcess run({"/bin/sh", "-c", line + " <" + terminal.name()}, dir_->File("out"),
                   {"TMPDIR=" + temporary.path()});
  const auto says = [&](const std::string& text) {
    return WaitUntil([&] { return run.Output().find(text) != std::string::npos || !run.running(); },
                     kDaemonLimit);
  };
  ASSERT_TRUE(says("it continues each line as a text"));
  ASSERT_TRUE(says("\n> ")) << run.Output();
  EXPECT_FALSE(fs::is_empty(temporary.path())) << "the log of the programs";
  terminal.Type("Once upon a time\n");
  const std::string answer = RunWith({"Once upon a time"}).out;
  ASSERT_TRUE(says(answer + "\n> ")) << run.Output();
  terminal.Type("/exit\n");
  EXPECT_EQ(run.Wait(kDaemonLimit), 0) << run.Output();
  EXPECT_TRUE(fs::is_empty(temporary.path()));
}

}  // namespace tidegate::run_test
