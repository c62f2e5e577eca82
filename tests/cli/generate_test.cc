#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <thread>

#include "nlohmann/json.hpp"
#include "tests/cli/command_line.h"
#include "tests/support/server_fixture.h"

namespace tidegate::generate_test {

using testing::HasSubstr;
using testing::internal::CaptureStderr;
using testing::internal::CaptureStdout;
using testing::internal::GetCapturedStderr;
using testing::internal::GetCapturedStdout;

class GenerateTest : public ServerFixture {
 protected:
  void SetUp() override {
    // Before any thread starts, as a blocked signal must be blocked in all of them: in the command
    // itself the guard comes first, here the server does.
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    pthread_sigmask(SIG_BLOCK, &interrupt, nullptr);
    ServerFixture::SetUp();
  }

  struct Outcome {
    absl::Status status;
    std::string out, err;
  };
  // Runs `tidegate generate` while `play` is the engine.
  Outcome Generate(std::vector<std::string> arguments, std::function<void(uint64_t)> play) {
    arguments.insert(arguments.begin(), {"generate", "--server", server_->address()});
    std::thread player;
    if (play) player = std::thread([&] { play(engine_->WaitForRequest()); });
    CaptureStdout();
    CaptureStderr();
    Outcome outcome;
    outcome.status = RunCommand(AddGenerateCommand, arguments);
    outcome.out = GetCapturedStdout();
    outcome.err = GetCapturedStderr();
    if (player.joinable()) player.join();
    return outcome;
  }
  std::function<void(uint64_t)> Story() {
    return [this](uint64_t id) {
      engine_->Emit(id, " upon", {10, 11});
      engine_->Emit(id, " a time", {12});
      GenerationResult result;
      result.reason = FinishReason::kMaxTokens;
      result.accounts.prompt_tokens = 2;
      result.accounts.generated_tokens = 3;
      result.accounts.decode_seconds = 1;
      result.accounts.first_token_seconds = 0.25;
      result.accounts.decode_flash_bytes = 3 * 1024;
      result.accounts.hit_units = 3;
      result.accounts.miss_units = 1;
      result.accounts.density = 0.5;
      result.accounts.gamma = 0.25;
      result.accounts.ladder = ladder_;
      engine_->End(id, result);
    };
  }

  std::optional<GenerationAccounts::Ladder> ladder_;
};

TEST_F(GenerateTest, StreamsTextAndThenTheAccounts) {
  const Outcome outcome = Generate({"a"}, Story());
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_EQ(outcome.out, " upon a time\n");
  EXPECT_THAT(outcome.err, HasSubstr("3 tokens, 2.0 tokens/s, first token after 250.0 ms"));
  EXPECT_THAT(outcome.err, HasSubstr("ended by max tokens"));
  EXPECT_THAT(outcome.err,
              HasSubstr("1.0 KiB from flash per token, hit rate 75.0 %, density 0.50"));
}

TEST_F(GenerateTest, SteeredStreamsSayWhatTheyCost) {
  EXPECT_THAT(Generate({"a"}, Story()).err, testing::Not(HasSubstr("steered")));
  ladder_ = {.most_accurate = 1, .fastest = 3, .predicted_perplexity_increase = 0.0234};
  EXPECT_THAT(Generate({"a"}, Story()).err,
              HasSubstr("steered: points 1 to 3 of the server's ladder, density 0.50, gamma 0.25, "
                        "perplexity foretold +2.3 %"));
}

TEST_F(GenerateTest, QuietPrintsTheTextAlone) {
  const Outcome outcome = Generate({"a", "--quiet"}, Story());
  EXPECT_EQ(outcome.out, " upon a time\n");
  EXPECT_EQ(outcome.err, "");
}

TEST_F(GenerateTest, JsonIsOneDocument) {
  const Outcome outcome = Generate({"a", "--json"}, Story());
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["text"], " upon a time");
  EXPECT_EQ(json["token_ids"], (std::vector<int>{10, 11, 12}));
  EXPECT_EQ(json["started"]["model"], "tiny");
  EXPECT_EQ(json["finished"]["finish_reason"], "FINISH_REASON_MAX_TOKENS");
  EXPECT_EQ(json["finished"]["usage"]["total_tokens"], 5);
  EXPECT_EQ(json["finished"]["flash"]["hit_rate"], 0.75);
}

TEST_F(GenerateTest, LogprobsAreATableOrAPartOfTheDocument) {
  const auto play = [this](uint64_t id) {
    engine_->EmitLogprobs(id, " upon", {10, 11},
                          {{.logprob = -0.25, .top = {{10, -0.25}}}, {.logprob = -3}});
    engine_->End(id, FinishReason::kMaxTokens);
  };
  const Outcome table = Generate({"a", "--logprobs", "1", "-q"}, play);
  EXPECT_EQ(table.out, " upon\n");
  EXPECT_EQ(table.err,
            "\n   token   logprob  most likely\n"
            "      10   -0.2500  10:-0.2500\n"
            "      11   -3.0000 \n");
  EXPECT_EQ(engine_->last_request().top_logprobs, 1u);
  const auto json = nlohmann::json::parse(Generate({"a", "--logprobs", "1", "--json"}, play).out);
  EXPECT_EQ(json["logprobs"][0]["top"][0]["token_id"], 10);
  EXPECT_EQ(json["logprobs"][1]["logprob"], -3.0);
}

TEST_F(GenerateTest, FlagsReachTheEngine) {
  const Outcome outcome = Generate({"a",
                                    "-n",
                                    "7",
                                    "--temperature",
                                    "0",
                                    "--top-k",
                                    "3",
                                    "--seed",
                                    "5",
                                    "--stop",
                                    "A",
                                    "--stop",
                                    "B",
                                    "--mode",
                                    "dense",
                                    "--density",
                                    "0.5",
                                    "--gamma",
                                    "0",
                                    "--protected-share",
                                    "0.5",
                                    "--reproducible",
                                    "--ignore-eos",
                                    "--min-tokens",
                                    "4",
                                    "--priority",
                                    "-5",
                                    "--cache-salt",
                                    "mine",
                                    "--request-id",
                                    "story-1",
                                    "--max-duration",
                                    "1500ms",
                                    "--quiet"},
                                   Story());
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  const GenerationRequest request = engine_->last_request();
  EXPECT_EQ(request.max_tokens, 7u);
  EXPECT_EQ(request.sampling.temperature, 0);
  EXPECT_EQ(request.sampling.top_k, 3u);
  EXPECT_EQ(request.sampling.seed, 5u);
  EXPECT_THAT(request.stop.strings, testing::ElementsAre("A", "B"));
  EXPECT_TRUE(request.stop.ignore_eos);
  EXPECT_EQ(request.stop.min_tokens, 4u);
  EXPECT_EQ(request.priority, -5);
  EXPECT_EQ(request.cache_salt, "mine");
  EXPECT_EQ(request.pruning.mode, DecodeMode::kDense);
  EXPECT_EQ(request.pruning.gamma, 0);
  EXPECT_EQ(request.pruning.protected_share, 0.5f);
  EXPECT_TRUE(request.pruning.reproducible);
  EXPECT_TRUE(request.time_limit.has_value());
}

TEST_F(GenerateTest, ReadsThePromptFromAFile) {
  TempDir folder;
  WriteFileOrDie(folder.File("p"), "a");
  EXPECT_TRUE(Generate({"--prompt-file", folder.File("p"), "-q"}, Story()).status.ok());
  EXPECT_EQ(engine_->last_request().prompt.size(), 2u);
}

TEST_F(GenerateTest, PromptFilesThatAreNoneAreErrors) {
  TempDir folder;
  WriteFileOrDie(folder.File("large"), std::string((1 << 20) + 1, 'x'));
  const std::pair<std::string, const char*> cases[] = {{folder.path(), "is a folder"},
                                                       {".", "is a folder"},
                                                       {folder.File("none"), "cannot open"},
                                                       {"/dev/zero", "is larger than"},
                                                       {folder.File("large"), "is larger than"}};
  for (const auto& [path, text] : cases) {
    const Outcome outcome = Generate({"--prompt-file", path}, nullptr);
    EXPECT_THAT(std::string(outcome.status.message()), HasSubstr(text)) << path;
    EXPECT_THAT(std::string(outcome.status.message()), testing::StartsWith("--prompt-file"));
  }
}

// A proxy of the environment is for other machines.
TEST_F(GenerateTest, LoopbackNeedsNoProxy) {
  const char* const kVariables[] = {"grpc_proxy", "https_proxy", "http_proxy"};
  for (const char* variable : kVariables) setenv(variable, "http://127.0.0.1:9", 1);
  const Outcome here = Generate({"a", "--quiet"}, Story());
  const absl::Status there =
      RunCommand(AddGenerateCommand, {"generate", "a", "--server", "tidegate.invalid:1"}, nullptr);
  for (const char* local : {"localhost.:1", "ip6-localhost:1"}) {
    const absl::Status refused =
        RunCommand(AddGenerateCommand, {"generate", "a", "--server", local}, nullptr);
    EXPECT_THAT(std::string(refused.message()), testing::Not(HasSubstr("proxy"))) << local;
  }
  setenv("no_proxy", "other,.invalid", 1);
  setenv("grpc_proxy", "", 1);
  const absl::Status direct =
      RunCommand(AddGenerateCommand,
                 {"generate", "a", "--server", "tidegate.invalid:1", "--deadline", "20s"}, nullptr);
  for (const char* variable : kVariables) unsetenv(variable);
  unsetenv("no_proxy");
  EXPECT_TRUE(here.status.ok()) << here.status;
  EXPECT_EQ(here.out, " upon a time\n");
  EXPECT_THAT(std::string(there.message()),
              HasSubstr("through the proxy that grpc_proxy names; no_proxy=tidegate.invalid"));
  EXPECT_THAT(std::string(direct.message()), testing::Not(HasSubstr("proxy")));
}

TEST_F(GenerateTest, ErrorsSayWhichFieldAndWhenToTryAgain) {
  const std::string stop(300, 's');
  const Outcome bad = Generate({"a", "--stop", stop, "--density", "0.1"}, nullptr);
  EXPECT_THAT(std::string(bad.status.message()), HasSubstr("stop.strings[0]: 300 bytes"));
  EXPECT_THAT(std::string(bad.status.message()), HasSubstr("pruning.density: 0.1 is outside"));
  engine_->SetSubmitError(absl::ResourceExhaustedError("64 requests wait already"));
  const Outcome full = Generate({"a"}, nullptr);
  EXPECT_THAT(std::string(full.status.message()),
              HasSubstr("RESOURCE_EXHAUSTED: 64 requests wait"));
  EXPECT_THAT(std::string(full.status.message()), HasSubstr("QUEUE_FULL"));
  EXPECT_THAT(std::string(full.status.message()), HasSubstr("try again after 1.0 s"));
}

TEST_F(GenerateTest, CtrlCCancelsAndStillGivesAccounts) {
  const Outcome outcome = Generate({"a"}, [this](uint64_t id) {
    engine_->Emit(id, " upon", {10});
    // Sent to the process: only the guard's thread waits for it.
    kill(getpid(), SIGINT);
    engine_->WaitForCancel(id);
  });
  EXPECT_EQ(outcome.status.code(), absl::StatusCode::kCancelled);
}

TEST(Generate, NobodyThere) {
  const absl::Status status =
      RunCommand(AddGenerateCommand, {"generate", "a", "--server", "unix:/nonexistent/socket"});
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("is tidegate-engine running at unix:/nonexistent/socket?"));
}

TEST(Generate, NeedsExactlyOnePrompt) {
  EXPECT_FALSE(RunCommand(AddGenerateCommand, {"generate"}).ok());
  EXPECT_FALSE(RunCommand(AddGenerateCommand, {"generate", "a", "--prompt-file", "b"}).ok());
  EXPECT_FALSE(RunCommand(AddGenerateCommand, {"generate", "a", "--mode", "fast"}).ok());
}

TEST(Generate, HelpShowsExamples) {
  CaptureStdout();
  EXPECT_TRUE(RunCommand(AddGenerateCommand, {"generate", "--help"}).ok());
  EXPECT_THAT(GetCapturedStdout(), HasSubstr("tidegate generate 'Once upon a time'"));
}

}  // namespace tidegate::generate_test
