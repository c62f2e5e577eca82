// `tidegate load` against an engine whose every answer the test decides. Against a real one:
// tests/integration/load_test.cc.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <set>
#include <thread>

#include "nlohmann/json.hpp"
#include "tests/cli/command_line.h"
#include "tests/support/server_fixture.h"

namespace tidegate::load_test {

using testing::HasSubstr;

class LoadTest : public ServerFixture {
 protected:
  void SetUp() override {
    // Before any thread starts, as a blocked signal must be blocked in all of them.
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    pthread_sigmask(SIG_BLOCK, &interrupt, nullptr);
    ServerFixture::SetUp();
  }

  struct Outcome {
    absl::Status status;
    std::string out;
    // What --json printed for the only run.
    nlohmann::json Json() const { return nlohmann::json::parse(out); }
  };
  // Short prompts, no warm-up; `play` is called again and again with each request that runs.
  Outcome Load(std::vector<std::string> arguments,
               const std::function<void(uint64_t)>& play = nullptr) {
    for (const std::string flag : {"--warm-up=0", "--prompt-tokens=4", "--output-tokens=8"}) {
      const std::string name = flag.substr(0, flag.find('='));
      if (std::find(arguments.begin(), arguments.end(), name) == arguments.end()) {
        arguments.push_back(flag);
      }
    }
    arguments.insert(arguments.begin(), {"load", "--server", server_->address()});
    std::atomic<bool> over = false;
    std::thread player;
    if (play) {
      player = std::thread([&] {
        while (!over) {
          for (const uint64_t id : engine_->Running()) play(id);
          std::this_thread::yield();
        }
      });
    }
    Outcome outcome;
    outcome.status = RunCommand(AddLoadCommand, arguments, &outcome.out);
    over = true;
    if (player.joinable()) player.join();
    return outcome;
  }

  // Three tokens in two events, then the end.
  void Answer(uint64_t id) {
    engine_->Emit(id, "a", {3});
    engine_->Emit(id, "aa", {3, 3});
    GenerationResult result;
    result.reason = FinishReason::kMaxTokens;
    result.accounts.prompt_tokens = 4;
    result.accounts.generated_tokens = 3;
    result.accounts.decode_flash_bytes = 3000;
    result.accounts.hit_units = 3;
    result.accounts.miss_units = 1;
    engine_->End(id, result);
  }
  std::function<void(uint64_t)> Answers() {
    return [this](uint64_t id) { Answer(id); };
  }
};

TEST_F(LoadTest, AClosedLoopRunsItsRequests) {
  const Outcome outcome = Load({"--requests", "20", "--concurrency", "4", "--json"}, Answers());
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  const auto json = outcome.Json();
  EXPECT_EQ(json["completed"], 20);
  EXPECT_EQ(json["failed"], 0);
  EXPECT_EQ(json["max_concurrent_requests"], 4);
  EXPECT_EQ(json["total_output_tokens"], 60);
  EXPECT_EQ(json["total_input_tokens"], 80);
  EXPECT_EQ(json["server"]["flash_bytes_per_token"], 1000);
  EXPECT_EQ(json["server"]["hit_rate"], 0.75);
  EXPECT_GT(json["mean_e2el_ms"], 0);
}

TEST_F(LoadTest, AnOpenLoopDoesNotWaitForAnswers) {
  // Nobody answers before all are there.
  const Outcome outcome = Load({"--requests", "12", "--rate", "2000", "--json"}, [&](uint64_t id) {
    if (engine_->submitted() == 12) Answer(id);
  });
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_EQ(outcome.Json()["completed"], 12);
  EXPECT_EQ(outcome.Json()["max_concurrent_requests"], 12);
  EXPECT_EQ(outcome.Json()["request_rate"], 2000);
}

TEST_F(LoadTest, FlagsReachTheEngine) {
  const Outcome outcome =
      Load({"--requests", "1", "--mode", "dense", "--ignore-eos", "--temperature", "0",
            "--prompt-tokens", "9", "--output-tokens", "5"},
           Answers());
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  const GenerationRequest request = engine_->last_request();
  EXPECT_EQ(request.prompt.size(), 9u);
  EXPECT_EQ(request.prompt.front(), 1) << "the model's start token";
  EXPECT_EQ(request.max_tokens, 5u);
  EXPECT_EQ(request.pruning.mode, DecodeMode::kDense);
  EXPECT_TRUE(request.stop.ignore_eos);
  EXPECT_EQ(request.sampling.temperature, 0);
}

TEST_F(LoadTest, ASeedRepeatsTheRequests) {
  const auto prompt = [&](const char* seed) {
    EXPECT_TRUE(Load({"--requests", "1", "--seed", seed}, Answers()).status.ok());
    return engine_->last_request();
  };
  const GenerationRequest first = prompt("1"), second = prompt("2"), again = prompt("1");
  EXPECT_EQ(first.prompt, again.prompt);
  EXPECT_EQ(first.sampling.seed, again.sampling.seed);
  EXPECT_NE(first.sampling.seed, second.sampling.seed);
}

TEST_F(LoadTest, PromptsComeFromAFile) {
  TempDir folder;
  WriteFileOrDie(folder.File("a"), "a a a a a a a a");
  const Outcome outcome = Load({"--requests", "1", "--prompt-file", folder.File("a")}, Answers());
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_EQ(engine_->last_request().prompt.size(), 4u);
  for (const char* wrong : {"none", "empty"}) {
    WriteFileOrDie(folder.File("empty"), "");
    const Outcome refused = Load({"--requests", "1", "--prompt-file", folder.File(wrong)});
    EXPECT_THAT(std::string(refused.status.message()), HasSubstr("--prompt-file"));
    EXPECT_THAT(std::string(refused.status.message()), HasSubstr(wrong));
  }
}

TEST_F(LoadTest, WhatIsOpenAtTheEndIsCutOffAndCounts) {
  std::set<uint64_t> begun;
  const Outcome outcome =
      Load({"--duration", "300ms", "--concurrency", "3", "--json"}, [&](uint64_t id) {
        if (begun.insert(id).second && id != 1) engine_->Emit(id, "a", {3});
      });
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  const auto json = outcome.Json();
  EXPECT_EQ(json["completed"], 0);
  EXPECT_EQ(json["failed"], 0);
  EXPECT_EQ(json["cut_off"], 3);
  EXPECT_EQ(json["cut_off_waiting"], 1);
  EXPECT_EQ(json["total_output_tokens"], 2);
  EXPECT_EQ(json["duration"].get<double>() >= 0.3, true);
  EXPECT_TRUE(WaitUntil([&] { return engine_->Running().empty(); }, std::chrono::seconds(10)))
      << "the streams were cancelled";
}

TEST_F(LoadTest, RefusedIsNoError) {
  engine_->SetSubmitError(absl::ResourceExhaustedError("64 requests wait already"));
  for (const char* loop : {"--rate=1000", "--concurrency=3"}) {
    const Outcome outcome = Load({"--requests", "3", loop, "--json"});
    EXPECT_EQ(outcome.Json()["refused"], 3);
    EXPECT_EQ(outcome.Json()["failed"], 0);
    EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("all 3 requests were refused"));
  }
}

TEST_F(LoadTest, ErrorsAreCountedByCodeAndReason) {
  engine_->SetSubmitError(absl::DataLossError("a block is damaged"));
  const Outcome outcome = Load({"--requests", "3", "--concurrency", "3", "--json"});
  const auto json = outcome.Json();
  EXPECT_EQ(json["failed"], 3);
  ASSERT_EQ(json["errors"].size(), 1u);
  EXPECT_EQ(json["errors"][0]["code"], "DATA_LOSS");
  EXPECT_EQ(json["errors"][0]["reason"], "WEIGHTS_DAMAGED");
  EXPECT_EQ(json["errors"][0]["count"], 3);
  EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("a block is damaged"));
}

TEST_F(LoadTest, AWarmUpThatFailsEndsItAll) {
  engine_->SetSubmitError(absl::DataLossError("a block is damaged"));
  const Outcome outcome = Load({"--warm-up", "1", "--requests", "1000000"});
  EXPECT_THAT(std::string(outcome.status.message()), HasSubstr("a block is damaged"));
  EXPECT_EQ(outcome.out, "");
}

TEST_F(LoadTest, WarmUpsAreNotMeasured) {
  const Outcome outcome = Load({"--warm-up", "3", "--requests", "2", "--json"}, Answers());
  EXPECT_EQ(outcome.Json()["completed"], 2);
  EXPECT_EQ(engine_->submitted(), 5u);
}

TEST_F(LoadTest, CtrlCShowsWhatWasMeasured) {
  std::atomic<int> answered = 0;
  const Outcome outcome =
      Load({"--requests", "1000000", "--concurrency", "2,3", "--json"}, [&](uint64_t id) {
        Answer(id);
        if (++answered == 10) kill(getpid(), SIGINT);
      });
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kCancelled);
  EXPECT_GE(outcome.Json()["completed"], 5) << "one run, and no second one";
}

TEST_F(LoadTest, AListMakesATableAndAReport) {
  TempDir folder;
  const Outcome outcome = Load(
      {"--requests", "4", "--concurrency", "1,2", "--report", folder.File("report")}, Answers());
  ASSERT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_THAT(outcome.out, HasSubstr("1 stream "));
  EXPECT_THAT(outcome.out, HasSubstr("2 streams "));
  const std::string page = ReadFileOrDie(folder.File("report/index.html"));
  EXPECT_THAT(page, HasSubstr("Load on tiny"));
  EXPECT_THAT(page, HasSubstr("<svg"));
  for (const char* name : {"speed.svg", "latency.svg", "ttft.svg", "itl.svg", "tokens.svg",
                           "streams.svg", "results.csv"}) {
    EXPECT_TRUE(FileExists(folder.File(std::string("report/") + name))) << name;
  }
}

TEST_F(LoadTest, LengthsThatDoNotFitAreRefusedAtOnce) {
  const Outcome outcome = Load({"--requests", "1", "--prompt-tokens", "10-60"});
  EXPECT_THAT(std::string(outcome.status.message()),
              HasSubstr("are up to 68 tokens; the server's context is 64"));
}

TEST(Load, NobodyThere) {
  const absl::Status status =
      RunCommand(AddLoadCommand, {"load", "--server", "unix:/nonexistent/socket"}, nullptr);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("is tidegate-engine running at unix:/nonexistent/socket?"));
}

TEST(Load, MistakesInFlagsAreNamed) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"--concurrency", "0"}, "--concurrency: '0'"},
      {{"--concurrency", "1,x"}, "--concurrency: 'x'"},
      {{"--rate", "0"}, "--rate: '0'"},
      {{"--prompt-tokens", "9-1"}, "--prompt-tokens: '9-1'"},
      {{"--goodput", "ttft"}, "--goodput: 'ttft': use"},
      {{"--goodput", "speed:1s"}, "--goodput: 'speed:1s': use"},
      {{"--arrivals", "often"}, "--arrivals: 'often': use"},
      {{"--rate", "1", "--concurrency", "1,2"}, "--concurrency: a list"}};
  for (const auto& [flags, text] : cases) {
    std::vector<std::string> arguments = {"load"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    EXPECT_THAT(std::string(RunCommand(AddLoadCommand, arguments, nullptr).message()),
                testing::StartsWith(text));
  }
}

}  // namespace tidegate::load_test
