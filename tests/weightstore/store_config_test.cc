#include "weightstore/store_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "tests/support/number_flags.h"
#include "tests/support/test_support.h"
#include "weightstore/admin_service.h"

namespace tidegate::store_config_test {

using testing::ElementsAre;

std::optional<int> Parse(std::vector<const char*> arguments, StoreConfig& config) {
  arguments.insert(arguments.begin(), "tidegate-store");
  return ParseStoreConfig(static_cast<int>(arguments.size()), arguments.data(), config);
}

TEST(StoreConfig, TakesFlags) {
  StoreConfig config;
  ASSERT_EQ(Parse({"--pack",
                   "m.tgpack",
                   "--memory-budget",
                   "1GiB",
                   "--engine-reserve=1MiB",
                   "--allow-uid",
                   "7,8",
                   "--flash-model",
                   "bandwidth=1GB/s,latency=80us",
                   "--no-verify",
                   "--policy",
                   "lru",
                   "--region-dir",
                   "/tmp",
                   "--socket",
                   "/run/x/s.sock",
                   "--queue-depth",
                   "32",
                   "--require-io-uring",
                   "--input-share",
                   "0.9"},
                  config),
            std::nullopt);
  const StoreOptions& store = config.store;
  EXPECT_EQ(store.pack_path, "m.tgpack");
  EXPECT_EQ(store.memory_budget_bytes, uint64_t{1} << 30);
  EXPECT_EQ(store.engine_reserve_bytes, uint64_t{1} << 20);
  EXPECT_THAT(store.allowed_uids, ElementsAre(7, 8));
  ASSERT_TRUE(store.flash_model.has_value());
  EXPECT_EQ(store.flash_model->latency, std::chrono::microseconds(80));
  EXPECT_FALSE(store.verify_checksums);
  EXPECT_EQ(store.policy, "lru");
  EXPECT_EQ(store.input_share, 0.9);
  EXPECT_EQ(store.queue_depth, 32u);
  EXPECT_EQ(store.flash_backend, "io_uring");
  EXPECT_THAT(store.region_path,
              testing::MatchesRegex(
                  absl::StrCat("/tmp/tidegate-", getuid(), "_run_x_s.sock-[0-9a-f]{16}\\.region")));
}

TEST(StoreConfig, LeavesTheRestAtItsDefaults) {
  StoreConfig config;
  ASSERT_EQ(Parse({"--pack", "m.tgpack", "--memory-budget", "1GiB"}, config), std::nullopt);
  EXPECT_EQ(config.store.socket_path, "/run/tidegate/store.sock");
  EXPECT_FALSE(config.store.engine_reserve_bytes.has_value());
  EXPECT_FALSE(config.store.flash_model.has_value());
  EXPECT_TRUE(config.store.verify_checksums);
  EXPECT_EQ(config.store.flash_backend, "auto");
}

TEST(StoreConfig, PackAndBudgetAreRequired) {
  StoreConfig config;
  EXPECT_NE(Parse({"--pack", "m.tgpack"}, config).value_or(0), 0);
  EXPECT_NE(Parse({"--memory-budget", "1GiB"}, config).value_or(0), 0);
}

TEST(StoreConfig, MistakesEndTheProgram) {
  for (const std::vector<const char*>& arguments : {std::vector<const char*>{"--policy", "fifo"},
                                                    {"--flash-backend", "aio"},
                                                    {"--flash-model", "fast"},
                                                    {"--memory-budget", "plenty"},
                                                    {"--queue-depth", "0"},
                                                    {"--engine-reserve", "-1"},
                                                    {"--input-share", "1.5"},
                                                    {"--allow-uid", "me"},
                                                    {"--allow-uid", "-1"},
                                                    {"--allow-uid", "4294967296"},
                                                    {"--allow-uid", "7,4294967295"},
                                                    {"--metrics-listen", "127.0.0.1:99999"},
                                                    {"--metrics-listen", "999.1.1.1:0"}}) {
    StoreConfig config;
    std::vector<const char*> all = {"--pack", "m", "--memory-budget", "1GiB"};
    if (arguments[0] == std::string("--memory-budget")) all = {"--pack", "m"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    EXPECT_NE(Parse(all, config).value_or(0), 0) << arguments[0];
  }
}

TEST(StoreConfig, EveryNumberIsChecked) {
  StoreConfig unused;
  testing::internal::CaptureStdout();
  EXPECT_EQ(Parse({"--help"}, unused), 0);
  const auto flags = NumberFlags(testing::internal::GetCapturedStdout());
  EXPECT_GE(flags.size(), 2u);
  for (const NumberFlag& flag : flags) {
    EXPECT_TRUE(flag.ours) << flag.name;
    for (const std::string& text : NoNumbers()) {
      StoreConfig config;
      const std::string argument = flag.name + "=" + text;
      testing::internal::CaptureStderr();
      const auto code = Parse({"--pack=m", "--memory-budget=1GiB", argument.c_str()}, config);
      EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::StartsWith(flag.name)) << text;
      EXPECT_NE(code.value_or(0), 0) << argument;
    }
  }
}

// "<socket>.grpc" has to fit as well: not found out after everything is loaded.
TEST(StoreConfig, SocketsAreCheckedAtOnce) {
  for (const size_t bytes : {1, 102, 103, 107, 108, 300}) {
    StoreConfig config;
    const std::string argument = "--socket=" + std::string(bytes, 's');
    testing::internal::CaptureStderr();
    const auto code = Parse({"--pack=m", "--memory-budget=1GiB", argument.c_str()}, config);
    const std::string err = testing::internal::GetCapturedStderr();
    EXPECT_EQ(code.has_value(), bytes > 102) << err;
    if (bytes > 102) EXPECT_THAT(err, testing::HasSubstr("from 1 to 102"));
  }
  EXPECT_LE(AdminServer::SocketPath(std::string(102, 's')).size(), kMaxSocketPathBytes);
}

TEST(StoreConfig, RegionNamesFitIntoAFolder) {
  const std::string deep = "/" + std::string(300, 'd') + "/s";
  const std::string path = RegionPath("/dev/shm", deep);
  EXPECT_LE(path.size() - path.rfind('/') - 1, 255u);
  EXPECT_NE(path, RegionPath("/dev/shm", "/d" + deep));
}

TEST(StoreConfig, RegionsOfDifferentSocketsDiffer) {
  EXPECT_NE(RegionPath("/dev/shm", "/run/a/store.sock"),
            RegionPath("/dev/shm", "/run/b/store.sock"));
  EXPECT_NE(RegionPath("/dev/shm", "/run/a_b/store.sock"),
            RegionPath("/dev/shm", "/run/a/b/store.sock"));
  EXPECT_EQ(RegionPath("/dev/shm", "/run/a/store.sock"),
            RegionPath("/dev/shm", "/run/b/../a/store.sock"));
}

TEST(StoreConfig, CreatesTheSocketFolderForTheGroup) {
  TempDir folder;
  ASSERT_TRUE(PrepareSocketFolder(folder.File("a/b/store.sock")).ok());
  struct stat info;
  ASSERT_EQ(stat(folder.File("a/b").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0750u);
  EXPECT_TRUE(PrepareSocketFolder(folder.File("a/b/store.sock")).ok());
  WriteFileOrDie(folder.File("file"), "");
  EXPECT_FALSE(PrepareSocketFolder(folder.File("file/sub/store.sock")).ok());
}

}  // namespace tidegate::store_config_test
