// The store and the engine as real processes: what the budget, crashes, restarts and signals do to
// streams that clients have open; and that nothing but time depends on cache, policy or device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "tests/support/daemons.h"
#include "tests/support/error_details.h"

namespace tidegate::processes_test {

const std::vector<std::string> kBudget = {"--memory-budget", kSmallBudget};
const std::vector<std::string> kSlowStore = {"--memory-budget", kSmallBudget, "--flash-model",
                                             kSlowDevice};

class Processes : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir();
    PackDemoModel(Pack());
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }
  static std::string File(const std::string& name) { return dir_->File(name); }
  static std::string Pack() { return File("demo.tgpack"); }

  // Whether nothing of any request is left in the engine and in the store.
  static bool Idle(const Daemons& daemons) {
    return WaitUntil(
        [&] {
          const auto stats = daemons.Stats();
          return daemons.EngineMetric("tidegate_requests_running") == 0 &&
                 daemons.EngineMetric("tidegate_requests_waiting") == 0 &&
                 daemons.EngineMetric("tidegate_kv_cache_tokens", "state=\"used\"") == 0 &&
                 stats.has_value() && stats->stats().cache().pinned_bytes() == 0;
        },
        kDaemonLimit);
  }

  // Halts the engine at a moment at which it holds a lease on cached blocks.
  static bool StopInsideALease(Daemons& daemons) {
    return WaitUntil(
        [&] {
          daemons.engine().Signal(SIGSTOP);
          const auto stats = daemons.Stats();
          if (stats.has_value() && stats->stats().cache().pinned_bytes() > 0) return true;
          daemons.engine().Signal(SIGCONT);
          return false;
        },
        kDaemonLimit);
  }

 private:
  static inline TempDir* dir_ = nullptr;
};

TEST_F(Processes, ABudgetBelowTheModelStreamsAStory) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start());
  const auto before = daemons.Stats();
  ASSERT_TRUE(before.has_value());
  const v1::MemorySplit& memory = before->info().memory();
  EXPECT_LT(memory.slot_bytes(), memory.streamed_model_bytes());
  EXPECT_LT(memory.budget_bytes(), memory.static_bytes() + memory.streamed_model_bytes());
  v1::GenerateRequest request = StoryRequest(60);
  request.clear_pruning();
  const StreamResult story = daemons.Generate(request);
  ASSERT_TRUE(story.status.ok()) << story.status.error_message();
  EXPECT_EQ(story.ids.size(), 60u);
  EXPECT_FALSE(story.text.empty());
  ASSERT_TRUE(story.finished.has_value());
  EXPECT_EQ(story.finished->finish_reason(), v1::FINISH_REASON_MAX_TOKENS);
  EXPECT_GT(story.finished->flash().decode_bytes(), 0u);
  EXPECT_GT(story.finished->flash().hit_units(), 0u);
  EXPECT_TRUE(Idle(daemons));
}

// Experts come and go in a cache that holds a part of them; the tokens are the reference's.
TEST_F(Processes, AMixtureOfExpertsInASmallBudgetAnswersAsTheReference) {
  TG_REQUIRE_SHARED("data/golden/arch/qwen2moe.json");
  const std::string pack = File("experts.tgpack");
  const RunResult packed =
      RunProgram({BinaryPath("tidegate"), "pack", SharedPath("data/golden/arch/qwen2moe.gguf"),
                  "-o", pack, "--units", "f16"});
  ASSERT_EQ(packed.exit_code, 0) << packed.err;
  const auto golden =
      nlohmann::json::parse(ReadFileOrDie(SharedPath("data/golden/arch/qwen2moe.json")));
  const auto wanted = golden.at("greedy").get<std::vector<uint32_t>>();
  v1::GenerateRequest request = StoryRequest(static_cast<uint32_t>(wanted.size()));
  for (const uint32_t id : golden.at("prompt_ids").get<std::vector<uint32_t>>()) {
    request.mutable_token_ids()->add_ids(id);
  }
  Daemons daemons(pack);
  ASSERT_NO_FATAL_FAILURE(daemons.Start({"--memory-budget", "1MiB"}));
  const auto stats = daemons.Stats();
  ASSERT_TRUE(stats.has_value());
  EXPECT_LT(stats->info().memory().slot_bytes(), stats->info().memory().streamed_model_bytes());
  const auto answer = [&](v1::DecodeMode mode, float density) {
    request.mutable_pruning()->set_mode(mode);
    request.mutable_pruning()->set_density(density);
    StreamResult result = daemons.Generate(request);
    EXPECT_TRUE(result.status.ok()) << result.status.error_message();
    return result;
  };
  const StreamResult dense = answer(v1::DECODE_MODE_DENSE, 1);
  ASSERT_TRUE(dense.finished.has_value());
  EXPECT_EQ(dense.ids, wanted);
  EXPECT_GT(dense.finished->flash().decode_bytes(), 0u);
  EXPECT_EQ(answer(v1::DECODE_MODE_DIP, 1).ids, wanted) << "every unit, by masks";
  request.mutable_pruning()->set_reproducible(false);
  const StreamResult pruned = answer(v1::DECODE_MODE_DIP_CA, 0.5f);
  EXPECT_EQ(pruned.ids.size(), wanted.size());
  EXPECT_LT(pruned.finished->flash().decode_bytes(), dense.finished->flash().decode_bytes());
  EXPECT_TRUE(Idle(daemons));
}

TEST_F(Processes, AKilledEngineLeavesAWarmStoreWithoutLeases) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start(kSlowStore));
  const StreamResult wanted = daemons.Generate(StoryRequest(8));
  ASSERT_TRUE(wanted.status.ok()) << wanted.status.error_message();
  {
    Stream stream(daemons.channel(), StoryRequest(500));
    ASSERT_TRUE(stream.ReadTokens(3)) << stream.Finish().status.error_message();
    ASSERT_TRUE(StopInsideALease(daemons));
    daemons.engine().Signal(SIGKILL);
    EXPECT_EQ(daemons.engine().Wait(kDaemonLimit), 128 + SIGKILL);
    EXPECT_EQ(stream.Finish().status.error_code(), grpc::StatusCode::UNAVAILABLE);
  }
  std::optional<v1::GetStatsResponse> stats;
  const bool freed = WaitUntil(
      [&] {
        stats = daemons.Stats();
        return stats.has_value() && stats->stats().engines().attached() == 0 &&
               stats->stats().cache().pinned_bytes() == 0 &&
               stats->stats().flash().in_flight() == 0;
      },
      kDaemonLimit);
  ASSERT_TRUE(freed) << "leases of a dead engine are held\n" << daemons.store().Output();
  EXPECT_GE(stats->stats().engines().leases_dropped(), 1u);
  const uint64_t used = stats->stats().cache().used_bytes();
  EXPECT_GT(used, 0u);

  ASSERT_NO_FATAL_FAILURE(daemons.StartEngine());
  ASSERT_TRUE(daemons.WaitReady(true)) << daemons.engine().Output();
  stats = daemons.Stats();
  ASSERT_TRUE(stats.has_value());
  EXPECT_GE(stats->stats().cache().used_bytes(), used) << "the cache was thrown away";
  const StreamResult again = daemons.Generate(StoryRequest(8));
  ASSERT_TRUE(again.status.ok()) << again.status.error_message();
  EXPECT_EQ(again.ids, wanted.ids);
  EXPECT_GT(again.finished->flash().hit_units(), 0u);
}

TEST_F(Processes, AKilledStoreEndsStreamsAndItsSuccessorServes) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start(kSlowStore));
  const StreamResult wanted = daemons.Generate(StoryRequest(8));
  ASSERT_TRUE(wanted.status.ok()) << wanted.status.error_message();
  {
    Stream stream(daemons.channel(), StoryRequest(500));
    ASSERT_TRUE(stream.ReadTokens(3)) << stream.Finish().status.error_message();
    daemons.store().Signal(SIGKILL);
    daemons.store().Wait(kDaemonLimit);
    const grpc::Status status = stream.Finish().status;
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
  }
  EXPECT_TRUE(daemons.WaitReady(false)) << "ready without a store";
  const grpc::Status refused = daemons.Generate(StoryRequest(8)).status;
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(refused).has_value());

  ASSERT_NO_FATAL_FAILURE(daemons.StartStore(kSlowStore));
  const auto stats = daemons.Stats();
  ASSERT_TRUE(stats.has_value());
  EXPECT_GT(stats->info().warm_blocks(), 0u) << "the region that was left behind is not used";
  ASSERT_TRUE(daemons.WaitReady(true)) << daemons.engine().Output();
  const StreamResult again = daemons.Generate(StoryRequest(8));
  ASSERT_TRUE(again.status.ok()) << again.status.error_message();
  EXPECT_EQ(again.ids, wanted.ids);
}

TEST_F(Processes, AnEngineWaitsForItsStore) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.StartEngine());
  EXPECT_FALSE(daemons.Ready());
  EXPECT_EQ(daemons.Generate(StoryRequest(4)).status.error_code(), grpc::StatusCode::UNAVAILABLE);
  ASSERT_NO_FATAL_FAILURE(daemons.StartStore(kBudget));
  ASSERT_TRUE(daemons.WaitReady(true)) << daemons.engine().Output();
  EXPECT_TRUE(daemons.Generate(StoryRequest(4)).status.ok());
}

TEST_F(Processes, ASecondStoreOnTheSameSocketIsRefused) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start());
  const RunResult second = RunProgram(daemons.StoreCommand(kBudget), std::chrono::minutes(1));
  EXPECT_EQ(second.exit_code, 1);
  EXPECT_THAT(second.err, testing::HasSubstr("another tidegate-store"));
  EXPECT_THAT(second.err, testing::HasSubstr(daemons.socket()));
  const StreamResult story = daemons.Generate(StoryRequest(4));
  EXPECT_TRUE(story.status.ok()) << "the first one suffered: " << story.status.error_message();
}

// The region's name comes from the socket's: without the socket the lock on the region still tells.
TEST_F(Processes, ASecondStoreOnTheSameRegionIsRefused) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start());
  ASSERT_EQ(unlink(daemons.socket().c_str()), 0);
  const RunResult second = RunProgram(daemons.StoreCommand(kBudget), std::chrono::minutes(1));
  EXPECT_EQ(second.exit_code, 1);
  EXPECT_THAT(second.err, testing::HasSubstr("another tidegate-store holds the region"));
  EXPECT_THAT(second.err, testing::HasSubstr("--region-dir"));
  const StreamResult story = daemons.Generate(StoryRequest(4));
  EXPECT_TRUE(story.status.ok()) << "the first one suffered: " << story.status.error_message();
}

TEST_F(Processes, SigtermLetsStreamsFinish) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start(kSlowStore));
  Stream stream(daemons.channel(), StoryRequest(20));
  ASSERT_TRUE(stream.ReadTokens(2)) << stream.Finish().status.error_message();
  daemons.engine().Signal(SIGTERM);
  const StreamResult& story = stream.Finish();
  ASSERT_TRUE(story.status.ok()) << story.status.error_message();
  EXPECT_EQ(story.ids.size(), 20u);
  ASSERT_TRUE(story.finished.has_value());
  EXPECT_EQ(story.finished->finish_reason(), v1::FINISH_REASON_MAX_TOKENS);
  EXPECT_EQ(daemons.engine().Wait(kDaemonLimit), 0) << daemons.engine().Output();
  daemons.store().Signal(SIGTERM);
  EXPECT_EQ(daemons.store().Wait(kDaemonLimit), 0) << daemons.store().Output();
}

TEST_F(Processes, ACancelledStreamLeavesNothingBehind) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start(kSlowStore));
  Stream stream(daemons.channel(), StoryRequest(500));
  ASSERT_TRUE(stream.ReadTokens(2)) << stream.Finish().status.error_message();
  EXPECT_EQ(daemons.EngineMetric("tidegate_requests_running"), 1);
  stream.Cancel();
  EXPECT_EQ(stream.Finish().status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Idle(daemons));
  EXPECT_TRUE(daemons.Generate(StoryRequest(2)).status.ok());
}

TEST_F(Processes, AStreamPastItsDeadlineLeavesNothingBehind) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start(kSlowStore));
  Stream stream(daemons.channel(), StoryRequest(500), std::chrono::milliseconds(1000));
  EXPECT_EQ(stream.Finish().status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(Idle(daemons));
}

TEST_F(Processes, OverlapAndPolicyChangeNoToken) {
  std::vector<uint32_t> wanted;
  for (const auto& [policy, engine_args] :
       {std::pair<const char*, std::vector<std::string>>("lfu", {}),
        {"lfu", {"--no-overlap"}},
        {"lru", {}},
        {"none", {}}}) {
    Daemons daemons(Pack());
    std::vector<std::string> store_args = kBudget;
    store_args.insert(store_args.end(), {"--policy", policy});
    ASSERT_NO_FATAL_FAILURE(daemons.Start(store_args, engine_args));
    v1::GenerateRequest request = StoryRequest(24);
    request.mutable_pruning()->set_density(0.5);
    const StreamResult story = daemons.Generate(request);
    ASSERT_TRUE(story.status.ok()) << story.status.error_message();
    if (wanted.empty()) wanted = story.ids;
    EXPECT_EQ(story.ids, wanted) << policy << " " << engine_args.size();
  }
}

// `tidegate logits`: greedy tokens and all logits at three places, as text that brings floats back
// exactly, so that equal text is equal bits.
class Exactness : public Processes {
 protected:
  static RunResult Logits(const std::vector<std::string>& extra) {
    std::vector<std::string> command = {BinaryPath("tidegate"),
                                        "logits",
                                        Pack(),
                                        "--tokens",
                                        "1,599,421,4048,261,1284",
                                        "--greedy",
                                        "48",
                                        "--positions",
                                        "6,20,53"};
    command.insert(command.end(), extra.begin(), extra.end());
    return RunProgram(command, std::chrono::minutes(2));
  }
  // Two answers are the same, bit for bit (a whole vocabulary in a message helps nobody).
  static void ExpectSame(const std::vector<std::string>& extra, const std::string& wanted) {
    SCOPED_TRACE(testing::PrintToString(extra));
    const RunResult run = Logits(extra);
    if (run.exit_code == 1 && run.err.find("io_uring") != std::string::npos) {
      std::printf("not compared, io_uring is refused here: %s", run.err.c_str());
      return;
    }
    ASSERT_EQ(run.exit_code, 0) << run.err;
    const auto greedy = [](const std::string& out) { return out.substr(out.find("\"greedy\"")); };
    EXPECT_EQ(greedy(run.out), greedy(wanted));
    EXPECT_TRUE(run.out == wanted) << "logits differ";
  }
};

TEST_F(Exactness, DensityOneIsDense) {
  const RunResult dense = Logits({"--mode", "dense", "--threads", "1"});
  ASSERT_EQ(dense.exit_code, 0) << dense.err;
  ExpectSame({"--mode", "dip", "--density", "1", "--gamma", "1", "--threads", "1"}, dense.out);
  ExpectSame({"--mode", "dip_ca", "--density", "1", "--gamma", "1", "--threads", "1"}, dense.out);
  ExpectSame({"--mode", "dense", "--threads", "2", "--cache-fraction", "0.1"}, dense.out);
}

TEST_F(Exactness, CachePolicyDeviceAndThreadsChangeNoBit) {
  const std::vector<std::string> base = {"--mode", "dip", "--density", "0.5", "--gamma", "1"};
  const RunResult wanted = Logits(base);
  ASSERT_EQ(wanted.exit_code, 0) << wanted.err;
  const std::vector<std::vector<std::string>> variants = {
      {"--cache-fraction", "0.5", "--threads", "1", "--flash-backend", "pread"},
      {"--cache-fraction", "0.5", "--threads", "2", "--flash-backend", "io_uring"},
      {"--cache-fraction", "0.5", "--policy", "lru", "--flash-backend", "pread", "--threads", "2"},
      {"--cache-fraction", "0.5", "--policy", "none", "--threads", "1"},
      {"--cache-fraction", "0.1", "--policy", "lfu", "--flash-backend", "io_uring"},
      {"--cache-fraction", "0.1", "--policy", "lru", "--threads", "1"},
      {"--cache-fraction", "0", "--threads", "1", "--flash-backend", "pread"},
      {"--cache-fraction", "0", "--policy", "none", "--threads", "2"},
      {"--cache-fraction", "0.25", "--flash-model", "bandwidth=500MB/s,latency=80us,iops=200k"},
      {"--cache-fraction", "0.5", "--threads", "2", "--flash-model",
       "bandwidth=2GB/s,latency=20us"}};
  for (std::vector<std::string> arguments : variants) {
    arguments.insert(arguments.begin(), base.begin(), base.end());
    ExpectSame(arguments, wanted.out);
  }
}

// Waiting for one block while others are yet to be asked for must never be mutual.
TEST_F(Exactness, CacheAwareDecodingEndsOnSlowDevices) {
  for (const std::vector<std::string>& device :
       {std::vector<std::string>{"--flash-backend", "pread"},
        {"--flash-model", "bandwidth=200MB/s,latency=500us,iops=20k"}}) {
    std::vector<std::string> arguments = {"--mode",  "dip_ca", "--density",        "0.75",
                                          "--gamma", "0.2",    "--cache-fraction", "0.25"};
    arguments.insert(arguments.end(), device.begin(), device.end());
    const RunResult run = Logits(arguments);
    EXPECT_EQ(run.exit_code, 0) << (run.exit_code == -1 ? "it hangs" : run.err) << device[1];
  }
}

}  // namespace tidegate::processes_test
