// Weights that cannot be read while store and engine serve: what the client is told, what the logs
// and the metrics say, and that the service goes on.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/unique_fd.h"
#include "proto/store/v1/pack_format.h"
#include "tests/support/daemons.h"
#include "tests/support/error_details.h"

namespace tidegate::unreadable_pack_test {

using ::testing::HasSubstr;

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

class UnreadablePack : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(PackDemoModel(Pack()));
    const auto fd = UniqueFd::Open(Pack(), O_RDONLY);
    ASSERT_TRUE(fd.ok());
    const auto index = ReadPackIndex(fd->get(), Pack());
    ASSERT_TRUE(index.ok()) << index.status();
    blocks_offset_ = index->header.blocks_offset;
  }
  std::string Pack() const { return dir_.File("demo.tgpack"); }

  // Streams fail, more than once, and everybody learns of it in the words of what happened.
  void ExpectLostWeights(Daemons& daemons, const std::string& cause) {
    constexpr int kStreams = 3;
    for (int i = 0; i < kStreams; ++i) {
      const grpc::Status status = daemons.Generate(StoryRequest(8)).status;
      EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS) << status.error_message();
      EXPECT_THAT(status.error_message(), HasSubstr("layer 0, input units, block "));
      EXPECT_THAT(status.error_message(), HasSubstr(cause));
      const auto info = DetailOf<google::rpc::ErrorInfo>(status);
      ASSERT_TRUE(info.has_value());
      EXPECT_EQ(info->reason(), "WEIGHTS_DAMAGED");
      EXPECT_FALSE(DetailOf<google::rpc::RetryInfo>(status).has_value())
          << "no use in trying again";
    }
    EXPECT_TRUE(daemons.Ready()) << "the store is there";
    EXPECT_TRUE(WaitUntil(
        [&] {
          const auto stats = daemons.Stats();
          return stats.has_value() && stats->stats().cache().pinned_bytes() == 0 &&
                 stats->stats().flash().reads_failed() >= kStreams;
        },
        kDaemonLimit));
    EXPECT_TRUE(WaitUntil(
        [&] {
          return daemons.EngineMetric("tidegate_requests_total", "code=\"DATA_LOSS\"") == kStreams;
        },
        kDaemonLimit));
    EXPECT_EQ(Count(daemons.store().Output(), "cannot read layer 0"), 1u)
        << daemons.store().Output();
    EXPECT_EQ(Count(daemons.engine().Output(), "a stream has ended"), 1u)
        << daemons.engine().Output();
    EXPECT_THAT(daemons.store().Output(), HasSubstr(cause));
  }

  TempDir dir_;
  uint64_t blocks_offset_ = 0;
};

TEST_F(UnreadablePack, CutOffUnderARunningStore) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start({"--memory-budget", kSmallBudget}));
  ASSERT_EQ(::truncate(Pack().c_str(), static_cast<off_t>(blocks_offset_ + 100)), 0);
  ExpectLostWeights(daemons, "the pack has been cut off");
}

TEST_F(UnreadablePack, ADriveThatAnswersWithErrors) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start({"--memory-budget", kSmallBudget, "--flash-model",
                                         "bad-from=" + std::to_string(blocks_offset_)}));
  ExpectLostWeights(daemons, "Input/output error");
}

}  // namespace tidegate::unreadable_pack_test
