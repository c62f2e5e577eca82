// What signals do to real processes in every phase: while they start, while they stop, twice, and
// as process 1 of a container.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>

#include "tests/support/daemons.h"

namespace tidegate::signals_test {

const std::vector<std::string> kSlowStore = {"--memory-budget", kSmallBudget, "--flash-model",
                                             kSlowDevice};
// Loading the static weights takes seconds.
const std::vector<std::string> kVerySlowStore = {"--memory-budget", kSmallBudget, "--flash-model",
                                                 "bandwidth=1MB/s"};

class Signals : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir();
    PackDemoModel(Pack());
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }
  static std::string Pack() { return dir_->File("demo.tgpack"); }
  static bool LogSays(const ChildProcess& process, const std::string& text) {
    return WaitUntil([&] { return process.Output().find(text) != std::string::npos; },
                     kDaemonLimit);
  }

 private:
  static inline TempDir* dir_ = nullptr;
};

TEST_F(Signals, AStoreThatIsLoadingEndsAtOnceAndLeavesNothing) {
  for (const bool keep_region : {false, true}) {
    Daemons daemons(Pack());
    std::vector<std::string> args = kVerySlowStore;
    if (keep_region) args.push_back("--keep-region");
    daemons.SpawnStore(args);
    ASSERT_TRUE(WaitUntil([&] { return !std::filesystem::is_empty(daemons.region_folder()); },
                          kDaemonLimit))
        << daemons.store().Output();
    daemons.store().Signal(SIGTERM);
    EXPECT_EQ(daemons.store().Wait(kDaemonLimit), 128 + SIGTERM) << daemons.store().Output();
    EXPECT_TRUE(std::filesystem::is_empty(daemons.region_folder()));
    EXPECT_FALSE(FileExists(daemons.socket()));
    EXPECT_THAT(daemons.store().Output(), testing::Not(testing::HasSubstr("ready")));
  }
}

TEST_F(Signals, ASecondSignalEndsADrainingEngine) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start(kSlowStore));
  Stream stream(daemons.channel(), StoryRequest(500));
  ASSERT_TRUE(stream.ReadTokens(1)) << stream.Finish().status.error_message();
  daemons.engine().Signal(SIGINT);
  ASSERT_TRUE(LogSays(daemons.engine(), "draining")) << daemons.engine().Output();
  daemons.engine().Signal(SIGTERM);
  EXPECT_EQ(daemons.engine().Wait(kDaemonLimit), 128 + SIGTERM) << daemons.engine().Output();
}

// The child that `unshare` made process 1 of its name space; 0 if there is none (any more).
pid_t ChildOf(pid_t parent) {
  const std::string path =
      "/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) + "/children";
  return FileExists(path) ? std::atoi(ReadFileOrDie(path).c_str()) : 0;
}

TEST_F(Signals, ASecondSignalEndsProcessOne) {
  const std::vector<std::string> runner = {"unshare", "-rfp", "--kill-child"};
  std::vector<std::string> probe = runner;
  probe.push_back("true");
  if (RunProgram(probe).exit_code != 0) GTEST_SKIP() << "name spaces are not permitted here";
  Daemons daemons(Pack());
  daemons.set_engine_runner(runner);
  ASSERT_NO_FATAL_FAILURE(daemons.Start(kSlowStore));
  Stream stream(daemons.channel(), StoryRequest(500));
  ASSERT_TRUE(stream.ReadTokens(1)) << stream.Finish().status.error_message();
  const pid_t engine = ChildOf(daemons.engine().pid());
  ASSERT_GT(engine, 0);
  kill(engine, SIGTERM);
  ASSERT_TRUE(LogSays(daemons.engine(), "draining")) << daemons.engine().Output();
  kill(engine, SIGTERM);
  EXPECT_EQ(daemons.engine().Wait(kDaemonLimit), 128 + SIGTERM) << daemons.engine().Output();
}

// The region that a process has mapped; "" if it has none.
std::string RegionOf(pid_t pid) {
  std::istringstream maps(ReadFileOrDie("/proc/" + std::to_string(pid) + "/maps"));
  for (std::string line; std::getline(maps, line);) {
    const size_t at = line.find("/dev/shm/tidegate-");
    if (at != std::string::npos && line.ends_with("/region")) return line.substr(at);
  }
  return "";
}

TEST_F(Signals, AnInterruptedCommandLeavesNothing) {
  TempDir temporary;
  ChildProcess command({BinaryPath("tidegate"), "logits", Pack(), "--tokens", "1,2,3",
                        "--flash-model", "bandwidth=1MB/s"},
                       temporary.File("log"), {"TMPDIR=" + temporary.path()});
  std::string region;
  ASSERT_TRUE(WaitUntil(
      [&] {
        if (command.running()) region = RegionOf(command.pid());
        return !region.empty() || !command.running();
      },
      kDaemonLimit));
  ASSERT_TRUE(FileExists(region)) << command.Output();
  command.Signal(SIGINT);
  EXPECT_EQ(command.Wait(kDaemonLimit), 128 + SIGINT) << command.Output();
  EXPECT_FALSE(FileExists(std::filesystem::path(region).parent_path()));
  for (const auto& entry : std::filesystem::directory_iterator(temporary.path())) {
    EXPECT_EQ(entry.path(), temporary.File("log")) << "left behind";
  }
}

}  // namespace tidegate::signals_test
