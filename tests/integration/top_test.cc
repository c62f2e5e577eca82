// `tidegate top` in a terminal and without one, before servers that are really there.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/metrics_server.h"
#include "tests/support/test_support.h"

namespace tidegate::top_test {

using ::testing::HasSubstr;
using ::testing::Not;

class TopTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = MetricsServer::Create("127.0.0.1:0");
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::vector<std::string> Command(std::vector<std::string> more = {}) const {
    std::vector<std::string> command = {BinaryPath("tidegate"), "top",
                                        "--metrics=" + server_->address(),
                                        "--store-metrics=unix:/nonexistent/m.sock"};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }

  std::unique_ptr<MetricsServer> server_;
};

TEST_F(TopTest, OnceIsATable) {
  const RunResult run = RunProgram(Command({"--once", "--interval=10ms"}));
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("\ntokens/s "));
  EXPECT_THAT(run.out, HasSubstr("\nstore: no metrics from unix:/nonexistent/m.sock: "));
  EXPECT_THAT(run.out, Not(HasSubstr("\x1b")));
}

TEST_F(TopTest, SaysWhatIsMissing) {
  const RunResult piped = RunProgram(Command());
  EXPECT_EQ(piped.exit_code, 1);
  EXPECT_THAT(piped.err, HasSubstr("standard output is no terminal; --once prints one table"));
  server_.reset();
  const RunResult none =
      RunProgram({BinaryPath("tidegate"), "top", "--once", "--metrics", "unix:/nonexistent/e.sock",
                  "--store-metrics", "unix:/nonexistent/m.sock"});
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_THAT(none.err, HasSubstr("no metrics from unix:/nonexistent/e.sock"));
  EXPECT_THAT(none.err, HasSubstr("is the service running?"));
}

// q and Ctrl-C end it, and the terminal is as it was.
TEST_F(TopTest, LeavesTheTerminalAsItWas) {
  for (const char key : {'q', '\x03'}) {
    winsize size = {};
    size.ws_col = 30;
    size.ws_row = 10;
    int terminal = -1;
    const std::vector<std::string> command = Command({"--interval=20ms"});
    const pid_t pid = forkpty(&terminal, nullptr, nullptr, &size);
    if (pid == 0) {
      alarm(120);
      std::vector<char*> argv;
      for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
      argv.push_back(nullptr);
      execv(argv[0], argv.data());
      _exit(127);
    }
    ASSERT_GT(pid, 0);
    std::string shown;
    const auto read_more = [&, terminal] {
      char buffer[4096];
      const ssize_t got = read(terminal, buffer, sizeof(buffer));
      if (got > 0) shown.append(buffer, static_cast<size_t>(got));
      return got > 0;
    };
    const auto drawn = [&] {  // a second time
      const size_t first = shown.find("tokens/s");
      return first != std::string::npos && shown.find("\x1b[H", first) != std::string::npos;
    };
    while (!drawn() && read_more()) {
    }
    termios mode = {};
    ASSERT_EQ(tcgetattr(terminal, &mode), 0);
    EXPECT_EQ(mode.c_lflag & (ICANON | ECHO), 0u);
    ASSERT_EQ(write(terminal, &key, 1), 1);
    while (shown.find("\x1b[?25h\x1b[?1049l") == std::string::npos && read_more()) {
    }
    EXPECT_THAT(shown, HasSubstr("\x1b[?25h\x1b[?1049l"));
    ASSERT_EQ(tcgetattr(terminal, &mode), 0);
    EXPECT_EQ(mode.c_lflag & (ICANON | ECHO), static_cast<tcflag_t>(ICANON | ECHO));
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    close(terminal);
  }
}

}  // namespace tidegate::top_test
