// `tidegate load` as users run it, against a real store and engine: both loops, and Ctrl-C.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <nlohmann/json.hpp>

#include "tests/support/daemons.h"

namespace tidegate::load_test {

class LoadCommand : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir();
    PackDemoModel(dir_->File("demo.tgpack"));
    daemons_ = new Daemons(dir_->File("demo.tgpack"));
    daemons_->Start();
  }
  static void TearDownTestSuite() {
    delete daemons_;
    delete dir_;
  }

  static std::vector<std::string> Command(const std::vector<std::string>& flags) {
    std::vector<std::string> command = {BinaryPath("tidegate"), "load", "--server",
                                        daemons_->address(), "--json"};
    command.insert(command.end(), flags.begin(), flags.end());
    return command;
  }
  // The account of the only run.
  static nlohmann::json Load(const std::vector<std::string>& flags) {
    const RunResult run = RunProgram(Command(flags));
    EXPECT_EQ(run.exit_code, 0) << run.err;
    return nlohmann::json::parse(run.out);
  }

  static inline TempDir* dir_ = nullptr;
  static inline Daemons* daemons_ = nullptr;
};

TEST_F(LoadCommand, AClosedLoopCountsEveryToken) {
  const double before = daemons_->EngineMetric("tidegate_generation_tokens_total");
  const auto json = Load({"--concurrency", "3", "--requests", "9", "--warm-up", "0",
                          "--prompt-tokens", "5-9", "--output-tokens", "7", "--ignore-eos"});
  EXPECT_EQ(json["completed"], 9);
  EXPECT_EQ(json["failed"], 0);
  EXPECT_EQ(json["total_output_tokens"], 63);
  EXPECT_EQ(daemons_->EngineMetric("tidegate_generation_tokens_total") - before, 63);
  EXPECT_EQ(json["max_concurrent_requests"], 3);
  EXPECT_GE(json["total_input_tokens"], 45);
  EXPECT_LE(json["total_input_tokens"], 81);
  EXPECT_GT(json["server"]["flash_bytes_per_token"], 0) << "less memory than weights";
  EXPECT_GT(json["server"]["hit_units"], 0);
  EXPECT_GE(json["median_e2el_ms"], json["median_ttft_ms"]);
  EXPECT_EQ(json["finish_reasons"]["FINISH_REASON_MAX_TOKENS"], 9);
}

TEST_F(LoadCommand, AnOpenLoopBeginsAtItsRate) {
  const auto json = Load({"--rate", "100", "--arrivals", "constant", "--requests", "10",
                          "--prompt-file", ModelPath("tinystories-heldout.txt"), "--prompt-tokens",
                          "6", "--output-tokens", "4", "--shared-prefix", "3", "--mode", "dense"});
  EXPECT_EQ(json["begun"], 10);
  EXPECT_EQ(json["completed"], 10);
  EXPECT_EQ(json["total_input_tokens"], 60);
  EXPECT_GE(json["duration"], 0.09) << "the last of ten is due after nine gaps";
}

TEST_F(LoadCommand, CtrlCEndsTheRunAndItsStreams) {
  ChildProcess load(Command({"--concurrency", "2", "--requests", "100000", "--prompt-tokens", "4",
                             "--output-tokens", "8"}),
                    dir_->File("load.out"));
  const double before = daemons_->EngineMetric("tidegate_generation_tokens_total");
  ASSERT_TRUE(WaitUntil(
      [&] { return daemons_->EngineMetric("tidegate_generation_tokens_total") > before + 30; },
      kDaemonLimit))
      << load.Output();
  load.Signal(SIGINT);
  EXPECT_EQ(load.Wait(kDaemonLimit), 1) << load.Output();
  EXPECT_THAT(load.Output(), testing::HasSubstr("\"cut_off\":2"));
  EXPECT_THAT(load.Output(), testing::HasSubstr("tidegate: interrupted"));
  EXPECT_TRUE(WaitUntil([&] { return daemons_->EngineMetric("tidegate_open_streams") == 0; },
                        kDaemonLimit));
}

TEST_F(LoadCommand, NobodyThereIsAnErrorWithARemedy) {
  const RunResult run =
      RunProgram({BinaryPath("tidegate"), "load", "--server", "unix:" + dir_->File("nobody.sock")});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_EQ(run.out, "");
  EXPECT_THAT(run.err, testing::HasSubstr("is tidegate-engine running at unix:"));
}

}  // namespace tidegate::load_test
