// Keys that commands show: a server that wants one, and the command that has it from a file or the
// environment.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <thread>

#include "server/access_setup.h"
#include "tests/cli/command_line.h"
#include "tests/support/server_fixture.h"

namespace tidegate::client_key_test {

using ::testing::HasSubstr;
using ::testing::Not;

class ClientKeyTest : public ServerFixture {
 protected:
  void Adjust(ServerOptions& options) override {
    ::unsetenv("TIDEGATE_KEY");
    key_ = NewApiKey().value();
    const KeyEntry entry = {.id = "a", .hash = HashOfKey(key_), .scopes = 1};
    const std::string keys = folder_.File("keys");
    WriteFileOrDie(keys, FormatKeyLine(entry));
    ASSERT_EQ(::chmod(keys.c_str(), 0600), 0);
    options.access = OpenAccess({.keys_file = keys}).value();
  }
  void TearDown() override {
    ::unsetenv("TIDEGATE_KEY");
    ServerFixture::TearDown();
  }
  // One answer, for those who are let in.
  absl::Status Generate(std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"generate", "--server", server_->address(), "a"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return RunCommand(AddGenerateCommand, arguments, nullptr);
  }
  absl::Status Served(std::vector<std::string> more = {}) {
    std::thread player(
        [this] { engine_->End(engine_->WaitForRequest(), FinishReason::kMaxTokens); });
    const absl::Status status = Generate(more);
    player.join();
    return status;
  }

  const TempDir folder_;
  std::string key_;
};

TEST_F(ClientKeyTest, WithoutAKeySaysHowToGiveOne) {
  const absl::Status status = Generate();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("--key-file FILE or the variable TIDEGATE_KEY"));
}

TEST_F(ClientKeyTest, AFileOrTheEnvironmentHasIt) {
  const std::string file = folder_.File("key");
  WriteFileOrDie(file, key_ + "\n");
  EXPECT_TRUE(Served({"--key-file", file}).ok());
  ::setenv("TIDEGATE_KEY", key_.c_str(), 1);
  EXPECT_TRUE(Served().ok());
  ::setenv("TIDEGATE_KEY", "tg-other", 1);
  EXPECT_TRUE(Served({"--key-file", file}).ok()) << "the file goes before the environment";
}

TEST_F(ClientKeyTest, WhatIsNoKeyIsNotShown) {
  const std::string file = folder_.File("key");
  WriteFileOrDie(file, "secret words\n");
  const absl::Status status = Generate({"--key-file", file});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("holds no key"));
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("secret")));
  ::setenv("TIDEGATE_KEY", "a b", 1);
  EXPECT_EQ(Generate().code(), absl::StatusCode::kUnauthenticated);
}

}  // namespace tidegate::client_key_test
