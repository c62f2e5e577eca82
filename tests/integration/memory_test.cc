// What the two processes take beyond the memory budget: no more than ARCHITECTURE.md states. Heap,
// stacks and shared memory are counted, as each process's part of them (Pss); code is not: its
// pages are the file's, shared by whoever runs the same program, and the kernel drops them when it
// wants to. Not under sanitizers, whose own memory is most of what they take.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

#include "base/units.h"
#include "tests/support/daemons.h"

namespace tidegate {
namespace {

constexpr char kBudgetText[] = "8MiB";
constexpr int64_t kBudget = 8 * kMiB;
// ARCHITECTURE.md, "Beyond the budget".
constexpr int64_t kStoreBytes = 4 * kMiB, kEngineBytes = 4 * kMiB;
constexpr int64_t kConnectionBytes = 64 * kKiB, kStreamBytes = 64 * kKiB;
constexpr int64_t kPieceTokens = 256;  // --prefill-chunk

// Of the demo model: what a piece of a prompt needs while it is computed.
constexpr int64_t kHidden = 256, kIntermediate = 1024, kQuery = 256, kKeys = 128;
constexpr int64_t kActivations =
    4 * kPieceTokens * (4 * kHidden + 2 * kQuery + 2 * kKeys + 3 * kIntermediate);
constexpr int64_t kCopies = kMiB;  // all streamed blocks of one layer and kind, rounded up

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
  const int64_t stated = kStoreBytes + kEngineBytes + kActivations + kCopies;
  std::printf("store %.1f MiB, engine %.1f MiB: %.1f MiB over the budget, stated %.1f MiB\n",
              InMiB(store), InMiB(engine), InMiB(store + engine - kBudget), InMiB(stated));
  EXPECT_LE(store + engine, kBudget + stated);
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

}  // namespace
}  // namespace tidegate
