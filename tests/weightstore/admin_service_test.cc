#include "weightstore/admin_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/raw_call.h"
#include "tests/support/test_support.h"
#include "tests/support/wire_bytes.h"

namespace tidegate::admin_service_test {

using testing::HasSubstr;

// As a command shows it: tests/cli/stats_test.cc.
TEST(AdminService, SaysEverything) {
  StoreInfo info;
  info.pack_uuid = "uuid-1";
  info.model_name = "tiny";
  info.flash.backend = "pread";
  info.flash.reason = "because";
  info.memory_budget_bytes = 100;
  info.slots_per_layer[1] = 5;
  info.warm_blocks = 3;
  StoreStats stats;
  stats.hit_units[0] = 7;
  stats.miss_units[1] = 8;
  stats.leases_granted[1] = 9;
  stats.flash_read_bytes[2] = 4096;
  stats.engines_attached = 2;
  stats.read_bytes.Observe(4096);
  stats.read_bytes.Observe(1e9);

  const v1::GetStatsResponse response = ToProto(info, stats);
  EXPECT_EQ(response.info().flash().reason(), "because");
  EXPECT_EQ(response.info().memory().budget_bytes(), 100u);
  EXPECT_EQ(response.info().hidden().slots_per_layer(), 5u);
  EXPECT_EQ(response.info().warm_blocks(), 3u);
  EXPECT_EQ(response.stats().select().hit_units(), 7u);
  EXPECT_EQ(response.stats().stream().miss_units(), 8u);
  EXPECT_EQ(response.stats().stream().granted(), 9u);
  EXPECT_EQ(response.stats().flash().static_read_bytes(), 4096u);
  EXPECT_EQ(response.stats().engines().attached(), 2u);
  const auto& buckets = response.stats().flash().read_bytes();
  ASSERT_EQ(buckets.size(), static_cast<int>(kReadBytesBounds.size()) + 1);
  EXPECT_EQ(buckets[0].upper_bound(), 4096);
  EXPECT_EQ(buckets[0].count(), 1u);
  EXPECT_TRUE(std::isinf(buckets[buckets.size() - 1].upper_bound()));
  EXPECT_EQ(buckets[buckets.size() - 1].count(), 1u);
}

TEST(AdminService, BytesThatAreNoRequestAreAnsweredInWords) {
  TempDir folder;
  const StoreInfo info;
  const StoreStats stats;
  const std::string socket = folder.File("store.sock.grpc");
  const auto server = AdminServer::Start(socket, info, stats);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto channel = grpc::CreateChannel("unix:" + socket, grpc::InsecureChannelCredentials());
  const std::string method = "/tidegate.v1.WeightStoreService/GetStats";
  EXPECT_TRUE(RawCall(channel, method, {""}).status.ok());
  EXPECT_TRUE(RawCall(channel, method, {WireField(9, "later")}).status.ok());
  const grpc::Status cut = RawCall(channel, method, {WireField(9, "later").substr(0, 4)}).status;
  EXPECT_EQ(cut.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(cut.error_message(), HasSubstr("(field 9): is cut off: 5 bytes"));
  const grpc::Status none = RawCall(channel, method, {}).status;
  EXPECT_EQ(none.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(none.error_message(), "the call has no message");
}

}  // namespace tidegate::admin_service_test
