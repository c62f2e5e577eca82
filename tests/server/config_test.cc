#include "server/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/number_flags.h"
#include "tests/support/test_support.h"

namespace tidegate::config_test {

using testing::ElementsAre;

// What the program would do: nothing, or exit with a code.
std::optional<int> Parse(std::vector<const char*> arguments, ServerConfig& config) {
  arguments.insert(arguments.begin(), "tidegate-engine");
  return ParseServerConfig(static_cast<int>(arguments.size()), arguments.data(), config);
}

TEST(ServerConfig, DefaultsAreValid) {
  ServerConfig config;
  ASSERT_EQ(Parse({}, config), std::nullopt);
  EXPECT_TRUE(ValidateServerConfig(config).ok());
  EXPECT_EQ(config.listen, "127.0.0.1:50051");
  EXPECT_EQ(config.engine.store_socket, "/run/tidegate/store.sock");
  EXPECT_EQ(config.drain_timeout, std::chrono::seconds(120));
  EXPECT_TRUE(config.engine.overlap);
  EXPECT_EQ(config.engine.precision, Precision::kFast);
  EXPECT_EQ(config.engine.kv_type, KvType::kF16);
  EXPECT_EQ(config.max_priority, 0);
}

TEST(ServerConfig, TakesFlags) {
  ServerConfig config;
  ASSERT_EQ(Parse({"--listen",
                   "127.0.0.1:0",
                   "--mode",
                   "dip",
                   "--density=0.5",
                   "--gamma-min",
                   "0.1",
                   "--model-alias",
                   "a,b",
                   "--drain-timeout",
                   "300ms",
                   "--no-overlap",
                   "--chat-template",
                   "chat.jinja",
                   "--metrics-listen",
                   "off",
                   "--max-running",
                   "2",
                   "--precision",
                   "exact",
                   "--kv",
                   "q8",
                   "--prefill-chunk",
                   "99",
                   "--max-priority",
                   "7",
                   "--max-choices",
                   "5"},
                  config),
            std::nullopt);
  EXPECT_EQ(config.listen, "127.0.0.1:0");
  EXPECT_EQ(config.engine.pruning.defaults.mode, DecodeMode::kDip);
  EXPECT_FLOAT_EQ(config.engine.pruning.defaults.density, 0.5f);
  EXPECT_FLOAT_EQ(config.engine.pruning.gamma_min, 0.1f);
  EXPECT_THAT(config.model_aliases, ElementsAre("a", "b"));
  EXPECT_EQ(config.drain_timeout, std::chrono::milliseconds(300));
  EXPECT_FALSE(config.engine.overlap);
  EXPECT_EQ(config.chat_template_file, "chat.jinja");
  EXPECT_EQ(config.metrics_listen, "");
  EXPECT_EQ(config.engine.max_running, 2u);
  EXPECT_EQ(config.engine.precision, Precision::kExact);
  EXPECT_EQ(config.engine.kv_type, KvType::kQ8);
  EXPECT_EQ(config.engine.prefill_chunk_tokens, 99u);
  EXPECT_EQ(config.max_priority, 7);
  EXPECT_EQ(config.max_choices, 5);
}

std::string Help() {
  ServerConfig config;
  testing::internal::CaptureStdout();
  EXPECT_EQ(Parse({"--help"}, config), 0);
  return testing::internal::GetCapturedStdout();
}

TEST(ServerConfig, EveryNumberIsChecked) {
  const std::vector<NumberFlag> flags = NumberFlags(Help());
  EXPECT_GE(flags.size(), 14u);
  for (const NumberFlag& flag : flags) {
    EXPECT_TRUE(flag.ours) << flag.name;
    for (const std::string& text : NoNumbers()) {
      ServerConfig config;
      testing::internal::CaptureStderr();
      const auto code = Parse({(flag.name + "=" + text).c_str()}, config);
      EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::StartsWith(flag.name)) << text;
      EXPECT_NE(code.value_or(0), 0) << flag.name << " " << text;
    }
  }
}

TEST(ServerConfig, KeysAndValuesHaveThreeTypes) {
  ServerConfig config;
  testing::internal::CaptureStderr();
  EXPECT_NE(Parse({"--kv", "q4"}, config).value_or(0), 0);
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              testing::StartsWith("--kv: unknown type of keys and values 'q4'; use f32, f16 or"));
}

// Clients cannot read an answer with a name that is no UTF-8.
TEST(ServerConfig, AliasesAreNames) {
  for (const std::string bad : {std::string("a\xff"), std::string("\x1b[31m"), std::string("a\nb"),
                                std::string(257, 'x'), std::string("")}) {
    ServerConfig config;
    testing::internal::CaptureStderr();
    EXPECT_NE(Parse({"--model-alias", bad.c_str()}, config).value_or(0), 0) << bad;
    const std::string err = testing::internal::GetCapturedStderr();
    EXPECT_THAT(err, testing::StartsWith("--model-alias: "));
    EXPECT_EQ(err.find('\x1b'), std::string::npos);
  }
  ServerConfig config;
  ASSERT_EQ(Parse({"--model-alias", "caf\xc3\xa9,b"}, config), std::nullopt);
  EXPECT_THAT(config.model_aliases, ElementsAre("caf\xc3\xa9", "b"));
}

TEST(ServerConfig, UnknownKeysOfTheFileAreRefused) {
  TempDir folder;
  WriteFileOrDie(folder.File("c"), "max_running = 5\n");
  const std::string path = folder.File("c");
  ServerConfig config;
  testing::internal::CaptureStderr();
  EXPECT_NE(Parse({"--config", path.c_str()}, config).value_or(0), 0);
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              testing::HasSubstr("line 1: 'max_running' is not known; did you mean max-running?"));
}

TEST(ServerConfig, AddressesAreRefusedAtOnce) {
  const std::string long_path = "--store-socket=/" + std::string(107, 's');
  for (const std::string bad :
       {"--listen=127.0.0.1:99999", "--listen=127.0.0.1:", "--listen=unix:", "--listen=5",
        "--metrics-listen=999.1.1.1:0", "--metrics-listen=127.0.0.1:70000",
        "--store-socket=", long_path.c_str()}) {
    ServerConfig config;
    testing::internal::CaptureStderr();
    EXPECT_NE(Parse({bad.c_str()}, config).value_or(0), 0) << bad;
    EXPECT_THAT(testing::internal::GetCapturedStderr(),
                testing::StartsWith(bad.substr(0, bad.find('='))));
  }
}

TEST(ServerConfig, CommandLineBeatsEnvironmentBeatsFile) {
  TempDir folder;
  WriteFileOrDie(folder.File("c"), "max-running = 5\nmax-waiting = 6\ncontext = 7\n");
  setenv("TIDEGATE_MAX_RUNNING", "50", 1);
  setenv("TIDEGATE_MAX_WAITING", "60", 1);
  setenv("TIDEGATE_CONFIG", folder.File("c").c_str(), 1);
  ServerConfig config;
  const auto exit_code = Parse({"--max-running", "500"}, config);
  unsetenv("TIDEGATE_MAX_RUNNING");
  unsetenv("TIDEGATE_MAX_WAITING");
  unsetenv("TIDEGATE_CONFIG");
  ASSERT_EQ(exit_code, std::nullopt);
  EXPECT_EQ(config.engine.max_running, 500u);
  EXPECT_EQ(config.engine.max_waiting, 60u);
  EXPECT_EQ(config.engine.context_tokens, 7u);
}

TEST(ServerConfig, MistakesEndTheProgram) {
  for (const std::vector<const char*>& arguments :
       {std::vector<const char*>{"--max-running", "2000"},
        {"--mode", "fast"},
        {"--precision", "slow"},
        {"--density", "2"},
        {"--drain-timeout", "soon"},
        {"--log-level", "loud"},
        {"--no-such-flag"},
        {"--config", "/nonexistent"}}) {
    ServerConfig config;
    const auto exit_code = Parse(arguments, config);
    ASSERT_TRUE(exit_code.has_value()) << arguments[0];
    EXPECT_NE(*exit_code, 0) << arguments[0];
  }
  ServerConfig config;
  EXPECT_EQ(Parse({"--help"}, config), 0);
}

TEST(ServerConfig, SteeringNeedsAMeasureAndMasksToSteer) {
  const struct {
    std::vector<const char*> arguments;
    const char* message;
  } cases[] = {{{"--max-perplexity-increase", "0"}, ""},
               {{"--target-tokens-per-second", "5", "--profile", "p.json"}, ""},
               {{"--profile", "p.json"}, "--profile does nothing by itself"},
               {{"--mode", "dense", "--target-tokens-per-second", "5"},
                "--mode dense has no points to choose from"}};
  for (const auto& c : cases) {
    ServerConfig config;
    ASSERT_EQ(Parse(c.arguments, config), std::nullopt);
    EXPECT_THAT(std::string(ValidateServerConfig(config).message()), testing::HasSubstr(c.message));
    EXPECT_EQ(ValidateServerConfig(config).ok(), c.message[0] == '\0') << c.arguments[0];
  }
  ServerConfig config;
  EXPECT_TRUE(Parse({"--max-perplexity-increase", "-1"}, config).has_value());
}

TEST(ServerConfig, DefaultsMustBeInsideTheBounds) {
  ServerConfig config;
  config.engine.pruning.density_min = 0.8f;
  EXPECT_EQ(ValidateServerConfig(config).code(), absl::StatusCode::kInvalidArgument);
  config = ServerConfig();
  config.engine.pruning.gamma_max = 0.1f;
  EXPECT_EQ(ValidateServerConfig(config).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace tidegate::config_test
