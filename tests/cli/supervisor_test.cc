#include "cli/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <thread>

#include "base/units.h"
#include "tests/support/test_support.h"

namespace tidegate::supervisor_test {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

constexpr std::chrono::seconds kLimit(60);

// Shell scripts as the programs, and the supervisor on a thread of its own.
class SupervisorTest : public ::testing::Test {
 protected:
  ~SupervisorTest() override { Stop().IgnoreError(); }

  // Says "NAME up" in the log, has "NAME.pid" while it is ready, says "NAME down" when asked to
  // end.
  SupervisedProgram Program(const std::string& name) const {
    const std::string pid = dir_.File(name + ".pid");
    return {name,
            [=, this] {
              return Shell("trap 'echo " + name + " down >>log; rm " + pid + "; exit' TERM; echo " +
                           name + " up >>log; echo $$ >" + pid + ".new; mv " + pid + ".new " + pid +
                           "; while :; do sleep 0.02; done");
            },
            [=] { return FileExists(pid); }};
  }
  std::vector<std::string> Shell(const std::string& script) const {
    return {"/bin/sh", "-c", "cd " + dir_.path() + "; " + script};
  }

  void Start(std::vector<SupervisedProgram> programs, RestartLimits limits = kQuick) {
    supervisor_.emplace(std::move(programs));
    const SupervisorOptions options = {.limits = limits,
                                       .tell = [this](const std::string& line) { Tell(line); },
                                       .on_ready = [this] { Tell("all ready"); }};
    thread_ = std::thread([this, options] { status_ = supervisor_->Run(options); });
  }
  Supervisor& supervisor() { return *supervisor_; }
  absl::Status Stop() {
    if (supervisor_) supervisor_->RequestStop();
    return Join();
  }
  absl::Status Join() {
    if (thread_.joinable()) thread_.join();
    return status_;
  }

  void Tell(const std::string& line) {
    const MutexLock lock(mutex_);
    told_ += line + "\n";
  }
  std::string Told() {
    const MutexLock lock(mutex_);
    return told_;
  }
  bool WaitTold(const std::string& text) {
    return WaitUntil([&] { return Told().find(text) != std::string::npos; }, kLimit);
  }
  // Ends a program as an accident does: it leaves no word, and is not ready any more.
  void Kill(const std::string& name) const {
    const pid_t pid = std::stoi(ReadFileOrDie(dir_.File(name + ".pid")));
    unlink(dir_.File(name + ".pid").c_str());
    kill(pid, SIGKILL);
  }
  std::string Log() const { return ReadFileOrDie(dir_.File("log")); }

  static constexpr RestartLimits kQuick = {milliseconds(1), milliseconds(4), milliseconds(60000),
                                           3};
  TempDir dir_;

 private:
  std::optional<Supervisor> supervisor_;
  std::thread thread_;
  absl::Status status_;
  Mutex mutex_;
  std::string told_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(SupervisorTest, StartsInOrderAndStopsInReverse) {
  Start({Program("store"), Program("engine")});
  ASSERT_TRUE(WaitTold("all ready"));
  EXPECT_TRUE(Stop().ok());
  EXPECT_EQ(Log(), "store up\nengine up\nengine down\nstore down\n");
  EXPECT_EQ(Told(), "all ready\n");
}

TEST_F(SupervisorTest, StartsAgainWhatEndsAndNothingElse) {
  Start({Program("store"), Program("engine")});
  ASSERT_TRUE(WaitTold("all ready"));
  const std::string again = " ended with signal 9 (Killed); starting it again in " +
                            FormatSeconds(0.001) + "\nserving again\n";
  Kill("engine");
  ASSERT_TRUE(WaitTold("engine" + again));
  Kill("store");
  ASSERT_TRUE(WaitTold("store" + again));
  EXPECT_TRUE(Stop().ok());
  EXPECT_EQ(Log(), "store up\nengine up\nengine up\nstore up\nengine down\nstore down\n");
}

TEST_F(SupervisorTest, PassesReloadsOnToProgramsThatAreReady) {
  SupervisedProgram program = Program("store");
  const std::string pid = dir_.File("store.pid");
  program.command = [=, this] {
    return Shell("trap 'echo reload >>log' HUP; trap 'exit' TERM; echo $$ >" + pid +
                 "; while :; do sleep 0.02; done");
  };
  Start({program});
  ASSERT_TRUE(WaitTold("all ready"));
  supervisor().RequestReload();
  EXPECT_TRUE(WaitUntil([&] { return FileExists(dir_.File("log")); }, kLimit));
  EXPECT_TRUE(Stop().ok());
  EXPECT_EQ(Log(), "reload\n");
}

TEST_F(SupervisorTest, WhatNeverWorkedIsNotTriedAgain) {
  Start({Program("store"), {"engine", [this] { return Shell("exit 7"); }, [] { return false; }}});
  const absl::Status status = Join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), "engine ended with exit code 7 while it started");
  EXPECT_EQ(Log(), "store up\nstore down\n");
}

TEST_F(SupervisorTest, WhatCannotBeStartedIsNamed) {
  Start({{"store", [this] { return std::vector<std::string>{dir_.File("none")}; },
          [] { return false; }}});
  EXPECT_THAT(std::string(Join().message()), HasSubstr("cannot start " + dir_.File("none")));
}

TEST_F(SupervisorTest, GivesUpAfterTheLastTry) {
  Start({Program("store")});
  ASSERT_TRUE(WaitTold("all ready"));
  for (const double delay : {0.001, 0.002, 0.004}) {
    Kill("store");
    ASSERT_TRUE(WaitTold("again in " + FormatSeconds(delay) + "\nserving again"));
  }
  Kill("store");
  EXPECT_EQ(Join().message(), "store ended with signal 9 (Killed), for the 4th time without " +
                                  FormatSeconds(60) + " of health in between; giving up");
}

TEST_F(SupervisorTest, MayBeStoppedBeforeItRuns) {
  Supervisor supervisor({Program("store")});
  supervisor.RequestStop();
  EXPECT_TRUE(supervisor.Run({}).ok());
  EXPECT_FALSE(FileExists(dir_.File("log")));
}

TEST_F(SupervisorTest, StopsWhatIsNotReadyYet) {
  Start({{"store", [this] { return Shell("echo $$ >pid; exec sleep 600"); }, [] { return false; }},
         Program("engine")});
  ASSERT_TRUE(WaitUntil([&] { return FileExists(dir_.File("pid")); }, kLimit));
  EXPECT_TRUE(Stop().ok());
  EXPECT_EQ(Told(), "");
  EXPECT_FALSE(FileExists(dir_.File("log")));
}

}  // namespace tidegate::supervisor_test
