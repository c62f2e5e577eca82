// A store, or its drive, that hangs without dying: streams can still be ended, readiness says so,
// both processes stop in time, and everything goes on as if nothing had been once it moves again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>

#include "tests/support/daemons.h"
#include "tests/support/error_details.h"
#include "weightstore/client/weight_client.h"

namespace tidegate::stall_test {

using testing::HasSubstr;

const std::vector<std::string> kSlowStore = {"--memory-budget", kSmallBudget, "--flash-model",
                                             kSlowDevice};

// Slow, and for ever silent in the midst of a long stream.
std::vector<std::string> HangingStore(const std::string& stall) {
  return {"--memory-budget", kSmallBudget, "--flash-model", std::string(kSlowDevice) + stall};
}

v1::GenerateRequest Limited(v1::GenerateRequest request, int seconds) {
  request.mutable_max_duration()->set_seconds(seconds);
  return request;
}

class Stall : public testing::Test {
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

  static bool Becomes(const Daemons& daemons, const std::string& metric, double value,
                      const std::string& label = "") {
    return WaitUntil([&] { return daemons.EngineMetric(metric, label) == value; }, kDaemonLimit);
  }
  static bool LogSays(const ChildProcess& process, const std::string& text) {
    return WaitUntil([&] { return process.Output().find(text) != std::string::npos; },
                     kDaemonLimit);
  }

 private:
  static inline TempDir* dir_ = nullptr;
};

TEST_F(Stall, AStoppedStoreHoldsNobodyAndNothingIsLostWhenItGoesOn) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start(
      kSlowStore, {"--stall-time", "300ms", "--max-running", "4", "--kv-tokens", "4096"}));
  const StreamResult wanted = daemons.Generate(StoryRequest(40));
  ASSERT_TRUE(wanted.status.ok()) << wanted.status.error_message();
  {
    Stream lives(daemons.channel(), StoryRequest(40));
    Stream cancelled(daemons.channel(), StoryRequest(500));
    for (Stream* stream : {&lives, &cancelled}) {
      ASSERT_TRUE(stream->ReadTokens(1)) << stream->Finish().status.error_message();
    }
    Stream late(daemons.channel(), StoryRequest(500), std::chrono::seconds(3));
    Stream limited(daemons.channel(), Limited(StoryRequest(500), 2));
    Stream queued(daemons.channel(), Limited(StoryRequest(500), 2));
    Stream queued_cancelled(daemons.channel(), StoryRequest(500));
    for (Stream* stream : {&late, &limited, &queued, &queued_cancelled}) {
      ASSERT_TRUE(stream->Begin()) << stream->Finish().status.error_message();
    }
    daemons.store().Signal(SIGSTOP);
    cancelled.Cancel();
    queued_cancelled.Cancel();
    for (Stream* stream : {&limited, &queued}) {
      const StreamResult& ended = stream->Finish();
      EXPECT_TRUE(ended.status.ok()) << ended.status.error_message();
      ASSERT_TRUE(ended.finished.has_value());
      EXPECT_EQ(ended.finished->finish_reason(), v1::FINISH_REASON_TIME_LIMIT);
    }
    EXPECT_EQ(cancelled.Finish().status.error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_EQ(queued_cancelled.Finish().status.error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_EQ(late.Finish().status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    // All of them are gone from the engine too, while the store still does nothing.
    EXPECT_TRUE(Becomes(daemons, "tidegate_requests_running", 1));
    EXPECT_TRUE(Becomes(daemons, "tidegate_requests_waiting", 0));
    EXPECT_TRUE(daemons.WaitReady(false));
    EXPECT_EQ(daemons.EngineMetric("tidegate_state", "state=\"stalled\""), 1);
    const grpc::Status refused = daemons.Generate(StoryRequest(4)).status;
    EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(refused).has_value());

    daemons.store().Signal(SIGCONT);
    EXPECT_TRUE(daemons.WaitReady(true)) << daemons.engine().Output();
    const StreamResult& whole = lives.Finish();
    EXPECT_TRUE(whole.status.ok()) << whole.status.error_message();
    EXPECT_EQ(whole.ids, wanted.ids);
  }
  EXPECT_EQ(daemons.Generate(StoryRequest(40)).ids, wanted.ids);
  EXPECT_GE(daemons.EngineMetric("tidegate_store_stalls_total"), 1);
  EXPECT_TRUE(Becomes(daemons, "tidegate_kv_cache_tokens", 0, "state=\"used\""));
  EXPECT_TRUE(WaitUntil(
      [&] {
        const auto stats = daemons.Stats();
        return stats.has_value() && stats->stats().cache().pinned_bytes() == 0;
      },
      kDaemonLimit))
      << "a lease that was given up is still held";
}

TEST_F(Stall, StreamsEndAtTheLimitAndAnIdleEngineNoticesBoth) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start(
      kSlowStore, {"--stall-time", "200ms", "--stall-limit", "700ms", "--kv-tokens", "4096"}));
  const StreamResult wanted = daemons.Generate(StoryRequest(8));
  {
    Stream first(daemons.channel(), StoryRequest(500)),
        second(daemons.channel(), StoryRequest(500));
    for (Stream* stream : {&first, &second}) ASSERT_TRUE(stream->ReadTokens(1));
    daemons.store().Signal(SIGSTOP);
    for (Stream* stream : {&first, &second}) {
      const grpc::Status status = stream->Finish().status;
      EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
    }
  }
  EXPECT_FALSE(daemons.Ready());
  EXPECT_TRUE(Becomes(daemons, "tidegate_requests_running", 0));
  daemons.store().Signal(SIGCONT);
  ASSERT_TRUE(daemons.WaitReady(true)) << daemons.engine().Output();
  EXPECT_EQ(daemons.Generate(StoryRequest(8)).ids, wanted.ids);
  // Nobody waits for the store now, and it is noticed all the same.
  daemons.store().Signal(SIGSTOP);
  EXPECT_TRUE(daemons.WaitReady(false)) << daemons.engine().Output();
  daemons.store().Signal(SIGCONT);
  EXPECT_TRUE(daemons.WaitReady(true)) << daemons.engine().Output();
  EXPECT_EQ(daemons.Generate(StoryRequest(8)).ids, wanted.ids);
}

TEST_F(Stall, ADrainEndsInTimeThoughTheStoreIsStopped) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start(kSlowStore, {"--drain-timeout", "300ms"}));
  Stream stream(daemons.channel(), StoryRequest(500));
  ASSERT_TRUE(stream.ReadTokens(1)) << stream.Finish().status.error_message();
  daemons.store().Signal(SIGSTOP);
  daemons.engine().Signal(SIGTERM);
  const StreamResult& ended = stream.Finish();
  EXPECT_TRUE(ended.status.ok()) << ended.status.error_message();
  ASSERT_TRUE(ended.finished.has_value());
  EXPECT_EQ(ended.finished->finish_reason(), v1::FINISH_REASON_DRAINING);
  EXPECT_EQ(daemons.engine().Wait(kDaemonLimit), 0) << daemons.engine().Output();
}

// Where everything is resident nobody has to wait for the store, and so nobody does.
TEST_F(Stall, AModelThatIsWhollyResidentNeedsNoStore) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start({"--memory-budget", "64MiB"}));
  v1::GenerateRequest dense = StoryRequest(100);
  dense.mutable_pruning()->set_mode(v1::DECODE_MODE_DENSE);
  const StreamResult wanted = daemons.Generate(dense);
  daemons.store().Signal(SIGSTOP);
  const StreamResult found = daemons.Generate(dense);
  EXPECT_TRUE(found.status.ok()) << found.status.error_message();
  EXPECT_EQ(found.ids, wanted.ids);
}

TEST_F(Stall, ADriveThatHangsIsSaidAndHoldsNeitherProcess) {
  Daemons daemons(Pack());
  std::vector<std::string> args = HangingStore(",stall-after=600");
  args.insert(args.end(), {"--stop-timeout", "200ms"});
  ASSERT_NO_FATAL_FAILURE(
      daemons.Start(args, {"--stall-time", "300ms", "--drain-timeout", "300ms"}));
  Stream stream(daemons.channel(), StoryRequest(500));
  ASSERT_TRUE(stream.ReadTokens(1)) << stream.Finish().status.error_message();
  EXPECT_TRUE(daemons.WaitReady(false)) << daemons.engine().Output();
  EXPECT_THAT(daemons.engine().Output(), HasSubstr("made no progress"));
  // The store goes on answering, and says what it is.
  const auto stats = daemons.Stats();
  ASSERT_TRUE(stats.has_value());
  EXPECT_GT(stats->stats().flash().in_flight(), 0u);
  EXPECT_TRUE(WeightClient::Attach(daemons.socket(), "second").ok());

  daemons.engine().Signal(SIGTERM);
  const StreamResult& ended = stream.Finish();
  EXPECT_TRUE(ended.status.ok()) << ended.status.error_message();
  EXPECT_EQ(daemons.engine().Wait(kDaemonLimit), 0) << daemons.engine().Output();
  daemons.store().Signal(SIGTERM);
  EXPECT_EQ(daemons.store().Wait(kDaemonLimit), 3) << daemons.store().Output();
  EXPECT_THAT(daemons.store().Output(), HasSubstr("--stop-timeout; ending anyway"));
  EXPECT_TRUE(std::filesystem::is_empty(daemons.region_folder()));
  EXPECT_FALSE(FileExists(daemons.socket()));
}

TEST_F(Stall, ADriveThatComesBackChangesNoToken) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(
      daemons.Start(HangingStore(",stall-after=300,stall=1s"), {"--stall-time", "200ms"}));
  const StreamResult found = daemons.Generate(StoryRequest(12));
  ASSERT_TRUE(found.status.ok()) << found.status.error_message();
  EXPECT_GE(daemons.EngineMetric("tidegate_store_stalls_total"), 1);
  EXPECT_TRUE(daemons.WaitReady(true));
  EXPECT_EQ(daemons.Generate(StoryRequest(12)).ids, found.ids);
}

TEST_F(Stall, ASecondSignalEndsAStoreWhoseReadsAreOut) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(
      daemons.Start(HangingStore(",stall-after=600"), {"--stall-time", "300ms"}));
  Stream stream(daemons.channel(), StoryRequest(500));
  ASSERT_TRUE(stream.ReadTokens(1)) << stream.Finish().status.error_message();
  ASSERT_TRUE(daemons.WaitReady(false));
  daemons.store().Signal(SIGTERM);
  ASSERT_TRUE(LogSays(daemons.store(), "stopping")) << daemons.store().Output();
  daemons.store().Signal(SIGTERM);
  EXPECT_EQ(daemons.store().Wait(kDaemonLimit), 128 + SIGTERM) << daemons.store().Output();
  EXPECT_TRUE(std::filesystem::is_empty(daemons.region_folder()));
  EXPECT_EQ(stream.Finish().status.error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace tidegate::stall_test
