#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/command_line.h"
#include "tests/support/server_fixture.h"

namespace tidegate::health_test {

using testing::HasSubstr;

class HealthTest : public ServerFixture {
 protected:
  absl::Status Health(const std::string& service) {
    return RunCommand(AddHealthCommand,
                      {"health", "--server", server_->address(), "--service", service});
  }
};

TEST_F(HealthTest, FollowsTheServer) {
  EXPECT_TRUE(Health("readiness").ok());
  EXPECT_TRUE(Health("liveness").ok());
  EXPECT_TRUE(Health("tidegate.v1.GenerationService").ok());
  engine_->SetAttached(false);
  EXPECT_TRUE(WaitUntil([&] { return !Health("readiness").ok(); }, std::chrono::seconds(10)));
  EXPECT_THAT(std::string(Health("readiness").message()), HasSubstr("NOT_SERVING"));
  EXPECT_TRUE(Health("liveness").ok());
}

TEST_F(HealthTest, UnknownNamesAreErrors) {
  EXPECT_EQ(Health("nothing").code(), absl::StatusCode::kNotFound);
}

TEST(Health, NobodyThere) {
  EXPECT_FALSE(RunCommand(AddHealthCommand, {"health", "--server", "unix:/nonexistent/s"}).ok());
}

}  // namespace tidegate::health_test
