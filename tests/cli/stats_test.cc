#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "nlohmann/json.hpp"
#include "tests/cli/command_line.h"
#include "tests/support/test_support.h"
#include "weightstore/admin_service.h"

namespace tidegate::stats_test {

using testing::HasSubstr;
using testing::internal::CaptureStdout;
using testing::internal::GetCapturedStdout;

class StatsTest : public testing::Test {
 protected:
  void SetUp() override {
    info_.model_name = "tiny";
    info_.memory_budget_bytes = 8 << 20;
    info_.streamed_model_bytes = 16 << 20;
    stats_.used_bytes = 4 << 20;
    stats_.capacity_bytes = 5 << 20;
    stats_.hit_units[0] = 3;
    stats_.miss_units[0] = 1;
    auto server = AdminServer::Start(AdminServer::SocketPath(socket_), info_, stats_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(server).value();
  }

  TempDir folder_;
  const std::string socket_ = folder_.File("store.sock");
  StoreInfo info_;
  StoreStats stats_;
  std::unique_ptr<AdminServer> server_;
};

TEST_F(StatsTest, PrintsATable) {
  CaptureStdout();
  const absl::Status status = RunCommand(AddStatsCommand, {"stats", "--socket", socket_});
  const std::string out = GetCapturedStdout();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(out, HasSubstr("budget             8.00 MiB"));
  EXPECT_THAT(out, HasSubstr("4.00 MiB used of 5.00 MiB, 25.0 % of the streamed weights"));
  EXPECT_THAT(out, HasSubstr("3 units hit, 1 missed, hit rate 75.0 %"));
}

TEST_F(StatsTest, PrintsJsonWithPlainNumbers) {
  CaptureStdout();
  const absl::Status status = RunCommand(AddStatsCommand, {"stats", "--socket", socket_, "--json"});
  const auto json = nlohmann::json::parse(GetCapturedStdout());
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(json["info"]["memory"]["budget_bytes"], 8 << 20);
  EXPECT_EQ(json["stats"]["select"]["hit_units"], 3);
  EXPECT_TRUE(json["stats"]["flash"]["read_bytes"].back()["upper_bound"].is_null());
}

TEST_F(StatsTest, TheSocketIsForOwnerAndGroup) {
  struct stat info;
  ASSERT_EQ(stat(AdminServer::SocketPath(socket_).c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0660u);
}

TEST_F(StatsTest, TheStoreIsHealthy) {
  EXPECT_TRUE(RunCommand(AddHealthCommand, {"health", "--service", "liveness", "--server",
                                            "unix:" + AdminServer::SocketPath(socket_)})
                  .ok());
}

TEST(Stats, SaysWhoIsMissing) {
  const absl::Status status =
      RunCommand(AddStatsCommand, {"stats", "--socket", "/nonexistent/store.sock"});
  EXPECT_THAT(std::string(status.message()), HasSubstr("is tidegate-store running"));
}

}  // namespace tidegate::stats_test
