// Results that cannot be written are errors, in every program and command; a reader that has left
// is none to talk about.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/support/daemons.h"

namespace tidegate::lost_output_test {

using testing::HasSubstr;

constexpr std::chrono::minutes kLimit(1);

class LostOutput : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir();
    PackDemoModel(dir_->File("demo.tgpack"));
    WriteFileOrDie(dir_->File("text"), "Once upon a time there was a little girl named Lily.\n");
    WriteFileOrDie(dir_->File("chat.jinja"), "{{ messages[0].content }}");
    WriteFileOrDie(dir_->File("chat.json"), R"({"messages": [{"role": "user", "content": "Hi"}]})");
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }
  // A shell's run of `program` with `arguments` and then `redirection`.
  static RunResult Run(const std::string& program, const std::string& arguments,
                       const std::string& redirection) {
    return RunProgram({"/bin/sh", "-c",
                       absl::StrCat("cd ", dir_->path(), " && exec '", BinaryPath(program), "' ",
                                    arguments, " ", redirection)},
                      kLimit);
  }

  static inline TempDir* dir_ = nullptr;
};

TEST_F(LostOutput, IsAnErrorInEveryCommand) {
  const std::pair<const char*, const char*> runs[] = {
      {"tidegate", "--help"},
      {"tidegate", "--version"},
      {"tidegate", "generate --help"},
      {"tidegate-engine", "--help"},
      {"tidegate-engine", "--version"},
      {"tidegate-store", "--help"},
      {"tidegate-store", "--version"},
      {"tidegate", "logits demo.tgpack --tokens 1"},
      {"tidegate", "inspect demo.tgpack --json"},
      {"tidegate", "eval demo.tgpack --text text --chunk 8 --json"},
      {"tidegate", "tokenize demo.tgpack --file text"},
      {"tidegate", "template --template chat.jinja --conversation chat.json"},
      {"tidegate", "simulate --shape llama-3-8b"}};
  for (const auto& [program, arguments] : runs) {
    const RunResult full = Run(program, arguments, ">/dev/full");
    EXPECT_EQ(full.exit_code, 1) << arguments;
    EXPECT_THAT(full.err, HasSubstr(absl::StrCat(program,
                                                 ": cannot write to standard output: No "
                                                 "space left on device")))
        << arguments;
  }
  for (const char* program : {"tidegate", "tidegate-engine", "tidegate-store"}) {
    EXPECT_EQ(Run(program, "--version", "").exit_code, 0);
    const RunResult closed = Run(program, "--version", ">&-");
    EXPECT_EQ(closed.exit_code, 1);
    EXPECT_THAT(closed.err, HasSubstr("cannot write to standard output"));
  }
}

TEST_F(LostOutput, PackSaysSoAndKeepsItsPack) {
  const RunResult full =
      Run("tidegate", "pack " + DemoModelPath() + " -o new.tgpack", ">/dev/full");
  EXPECT_EQ(full.exit_code, 1);
  EXPECT_THAT(full.err, HasSubstr("cannot write to standard output"));
  // With standard output closed, its number must not become the pack's.
  const RunResult closed = Run("tidegate", "pack " + DemoModelPath() + " -o other.tgpack", ">&-");
  EXPECT_EQ(closed.exit_code, 1);
  EXPECT_EQ(Run("tidegate", "inspect --verify other.tgpack", "").exit_code, 0);
}

// As SIGPIPE ends other programs, without a word; also where the caller ignores the signal.
TEST_F(LostOutput, ReadersThatLeaveAreNoError) {
  for (const char* trap : {"", "trap '' PIPE; "}) {
    const RunResult run = RunProgram(
        {"/bin/sh", "-c",
         absl::StrCat("cd ", dir_->path(), "; rm -f f; mkfifo f; exec 3<>f 4>f 3<&-; ", trap, "'",
                      BinaryPath("tidegate"), "' inspect --json demo.tgpack >&4; echo $?")},
        kLimit);
    EXPECT_EQ(run.err, "");
    EXPECT_EQ(run.out, "141\n");
  }
}

// Files that a limit cuts off: nothing of them is left.
TEST_F(LostOutput, FilesAppearWholeOrNotAtAll) {
  const std::string limit = "ulimit -f 1; trap '' XFSZ; ";  // blocks of 512 bytes
  const std::string commands[] = {"simulate --shape llama-3-8b --csv out",
                                  "simulate --shape llama-3-8b --report out"};
  for (const std::string& command : commands) {
    const RunResult run =
        RunProgram({"/bin/sh", "-c",
                    absl::StrCat("cd ", dir_->path(), "; rm -rf out; ", limit, "exec '",
                                 BinaryPath("tidegate"), "' ", command)},
                   kLimit);
    EXPECT_EQ(run.exit_code, 1) << command;
    EXPECT_THAT(run.err, HasSubstr("File too large")) << command;
    std::error_code error;
    const std::filesystem::path out = dir_->File("out");
    EXPECT_TRUE(!std::filesystem::exists(out, error) || std::filesystem::is_empty(out, error))
        << command;
  }
}

}  // namespace tidegate::lost_output_test
