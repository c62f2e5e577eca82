// What the two processes take beyond the memory budget: no more than ARCHITECTURE.md states. Heap,
// stacks and shared memory are counted, as each process's part of them (Pss); code is not: its
// pages are the file's, shared by whoever runs the same program, and the kernel drops them when it
// wants to. Not under sanitizers, whose own memory is most of what they take.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <thread>

#include "base/units.h"
#include "tests/support/daemons.h"
#include "tests/support/gguf_builder.h"

namespace tidegate::memory_test {

constexpr char kBudgetText[] = "8MiB";
constexpr int64_t kBudget = 8 * kMiB;
// ARCHITECTURE.md, "Beyond the budget".
constexpr int64_t kStoreBytes = 4 * kMiB, kEngineBytes = 4 * kMiB;
constexpr int64_t kConnectionBytes = 64 * kKiB, kStreamBytes = 64 * kKiB;
constexpr int64_t kWorkspaceBytes = 24 * kMiB;  // of it; the rest is in the engine's reserve
constexpr int64_t kPieceTokens = 256;           // --prefill-chunk

// Bytes of `pid`: heap, stacks and its part of shared memory.
int64_t MemoryOf(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/smaps_rollup");
  int64_t bytes = 0;
  for (std::string line; std::getline(in, line);) {
    for (const char* part : {"Pss_Anon:", "Pss_Shmem:"}) {
      if (line.rfind(part, 0) == 0) bytes += std::stoll(line.substr(line.find(':') + 1)) * 1024;
    }
  }
  return bytes;
}

// The most that some processes take together while it lives.
class Peak {
 public:
  explicit Peak(std::vector<pid_t> pids)
      : thread_([this, pids = std::move(pids)] {
          while (!stop_) {
            int64_t bytes = 0;
            for (const pid_t pid : pids) bytes += MemoryOf(pid);
            peak_ = std::max(peak_.load(), bytes);
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
          }
        }) {}
  ~Peak() { Stop(); }

  int64_t Stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
    return peak_;
  }

 private:
  std::atomic<bool> stop_ = false;
  std::atomic<int64_t> peak_ = 0;
  std::thread thread_;
};

double InMiB(int64_t bytes) { return static_cast<double>(bytes) / kMiB; }

class MemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(PackDemoModel(dir_.File("demo.tgpack")));
    daemons_.emplace(dir_.File("demo.tgpack"));
    ASSERT_NO_FATAL_FAILURE(daemons_->Start({"--memory-budget", kBudgetText}));
    if (MemoryOf(daemons_->engine().pid()) == 0) GTEST_SKIP() << "no Pss_Anon in smaps_rollup";
  }
  // A prompt that is the largest piece, and some tokens after it.
  static v1::GenerateRequest LongRequest() {
    v1::GenerateRequest request = StoryRequest(10);
    for (uint32_t i = 0; i < kPieceTokens; ++i) request.mutable_token_ids()->add_ids(300 + i);
    return request;
  }
  int64_t EngineBytes() { return MemoryOf(daemons_->engine().pid()); }

  TempDir dir_;
  std::optional<Daemons> daemons_;
};

TEST_F(MemoryTest, TheBudgetAndWhatIsStatedHoldBothProcesses) {
  std::vector<std::unique_ptr<Stream>> streams;
  for (int i = 0; i < 3; ++i) {
    streams.push_back(std::make_unique<Stream>(daemons_->channel(), LongRequest()));
  }
  for (const auto& stream : streams) {
    const StreamResult& result = stream->Finish();
    ASSERT_TRUE(result.status.ok()) << result.status.error_message();
    ASSERT_EQ(result.finished->usage().prompt_tokens(), kPieceTokens);
  }
  const int64_t store = MemoryOf(daemons_->store().pid()), engine = EngineBytes();
  const int64_t stated = kStoreBytes + kEngineBytes + kWorkspaceBytes;
  std::printf("store %.1f MiB, engine %.1f MiB: %.1f MiB over the budget, stated %.1f MiB\n",
              InMiB(store), InMiB(engine), InMiB(store + engine - kBudget), InMiB(stated));
  EXPECT_LE(store + engine, kBudget + stated);
}

// Many streams with long prompts: pages of all of them, the largest steps, and the budget in use to
// its last slot.
void ExpectManyStreamsWithinBudget(const std::string& pack, int64_t budget, int64_t reserve,
                                   uint32_t prompt_tokens) {
  constexpr uint32_t kStreams = 64, kTokens = 8;
  Daemons daemons(pack);
  ASSERT_NO_FATAL_FAILURE(daemons.Start(
      {"--memory-budget", std::to_string(budget), "--engine-reserve", std::to_string(reserve)},
      {"--max-running", std::to_string(kStreams), "--step-time", "0s"}));
  Peak peak({daemons.store().pid(), daemons.engine().pid()});
  std::vector<std::unique_ptr<Stream>> streams;
  for (uint32_t i = 0; i < kStreams; ++i) {
    v1::GenerateRequest request = StoryRequest(kTokens);
    // Cache-aware, dense and exact rows in turn; prompts of which none begins like another.
    request.mutable_pruning()->set_reproducible(i % 4 == 0);
    request.mutable_sampling()->set_temperature(i % 2 == 0 ? 0 : 1);
    for (uint32_t t = 0; t < prompt_tokens; ++t) {
      request.mutable_token_ids()->add_ids(260 + (t * 7 + i * 31) % 50);
    }
    streams.push_back(std::make_unique<Stream>(daemons.channel(), request));
  }
  for (const auto& stream : streams) {
    const StreamResult& result = stream->Finish();
    ASSERT_TRUE(result.status.ok()) << result.status.error_message();
    ASSERT_EQ(result.finished->usage().prompt_tokens(), prompt_tokens);
  }
  const int64_t stated =
      kStoreBytes + kEngineBytes + kWorkspaceBytes + kStreams * (kStreamBytes + kConnectionBytes);
  const int64_t taken = peak.Stop();
  std::printf(
      "%u streams of %u tokens: peak %.1f MiB, budget %.1f MiB, stated beyond it %.1f MiB\n",
      kStreams, prompt_tokens, InMiB(taken), InMiB(budget), InMiB(stated));
  EXPECT_LE(taken, budget + stated);
  // They did run together: pages of the reserve are in use.
  EXPECT_GE(taken, budget - reserve / 4);
}

TEST_F(MemoryTest, ManyStreamsWithLongPromptsStayWithinTheBudgetAndWhatIsStated) {
  daemons_.reset();
  // A page of the KV cache takes 96 KiB: 896 pages, and a part of the weights.
  ExpectManyStreamsWithinBudget(dir_.File("demo.tgpack"), 91 * kMiB, 85 * kMiB, 400);
}

// Steps of this model take more than what is beside the reserve.
TEST_F(MemoryTest, SoTheyDoWhereTheWorkspaceIsAPartOfTheReserve) {
  daemons_.reset();
  const TestModel model = {.layers = 2,
                           .hidden = 1024,
                           .intermediate = 3072,
                           .heads = 16,
                           .kv_heads = 4,
                           .vocab = 8192,
                           .context = 512,
                           .matrices = GgmlType::kF16};
  LlamaGguf(model).WriteTo(dir_.File("model.gguf"));
  const RunResult packed = RunProgram({BinaryPath("tidegate"), "pack", dir_.File("model.gguf"),
                                       "-o", dir_.File("model.tgpack"), "--units", "q8"});
  ASSERT_EQ(packed.exit_code, 0) << packed.err;
  ExpectManyStreamsWithinBudget(dir_.File("model.tgpack"), 80 * kMiB, 44 * kMiB, 120);
}

TEST_F(MemoryTest, AnIdleConnectionTakesNoMoreThanStated) {
  constexpr int kConnections = 100;
  ASSERT_TRUE(daemons_->Generate(LongRequest()).status.ok());
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  const auto open = [&](int count) {
    for (int i = 0; i < count; ++i) {
      grpc::ChannelArguments own;  // a connection of its own
      own.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
      channels.push_back(
          grpc::CreateCustomChannel(daemons_->address(), grpc::InsecureChannelCredentials(), own));
    }
    for (const auto& channel : channels) {
      EXPECT_TRUE(
          channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(20)));
    }
  };
  open(10);
  const int64_t before = EngineBytes();
  open(kConnections);
  const int64_t each = (EngineBytes() - before) / kConnections;
  std::printf("%.1f KiB for a connection\n", static_cast<double>(each) / kKiB);
  EXPECT_LE(each, kConnectionBytes);
}

TEST_F(MemoryTest, AStreamThatWaitsTakesNoMoreThanStated) {
  constexpr int kWaiting = 50;
  std::vector<std::unique_ptr<Stream>> streams;
  const auto open = [&](int count, double waiting) {
    for (int i = 0; i < count; ++i) {
      v1::GenerateRequest request = StoryRequest(400);
      streams.push_back(std::make_unique<Stream>(daemons_->channel(), request));
    }
    EXPECT_TRUE(
        WaitUntil([&] { return daemons_->EngineMetric("tidegate_requests_waiting") >= waiting; },
                  kDaemonLimit));
  };
  open(8, 4);
  const int64_t before = EngineBytes();
  open(kWaiting, 4 + kWaiting * 3 / 4);
  const int64_t each = (EngineBytes() - before) / kWaiting;
  std::printf("%.1f KiB for a waiting stream\n", static_cast<double>(each) / kKiB);
  EXPECT_LE(each, kStreamBytes);
  for (const auto& stream : streams) stream->Cancel();
}

}  // namespace tidegate::memory_test
