#include "cli/daemon_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "base/flag_values.h"

namespace tidegate::daemon_flags_test {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

class DaemonFlagsTest : public ::testing::Test {
 protected:
  DaemonFlagsTest() { app_.add_option("MODEL", model_)->required(); }
  // False: a mistake on the command line.
  bool Parse(std::vector<std::string> arguments) {
    std::reverse(arguments.begin(), arguments.end());
    try {
      app_.parse(arguments);
    } catch (const CLI::ParseError&) {
      return false;
    }
    return true;
  }

  CLI::App app_;
  std::string model_;
  DaemonFlags flags_;
};

TEST_F(DaemonFlagsTest, GoToTheOneThatKnowsThem) {
  AddDaemonFlags(app_, flags_);
  ASSERT_TRUE(Parse({"--max-running", "8", "--no-overlap", "--lora", "a", "m.gguf", "--lora=b,c",
                     "--flash-backend=pread", "--keep-region"}));
  EXPECT_EQ(model_, "m.gguf");
  EXPECT_THAT(flags_.engine,
              UnorderedElementsAre("--max-running=8", "--no-overlap", "--lora=a", "--lora=b,c"));
  EXPECT_THAT(flags_.store, UnorderedElementsAre("--flash-backend=pread", "--keep-region"));
  StoreConfig store;
  std::vector<std::string> arguments = {"s", "--pack=p", "--memory-budget=1MiB"};
  arguments.insert(arguments.end(), flags_.store.begin(), flags_.store.end());
  EXPECT_TRUE(ParseArguments(arguments, store).ok());
  EXPECT_EQ(store.store.flash_backend, "pread");
  EXPECT_TRUE(store.store.keep_region);
  ServerConfig engine;
  arguments = {"e"};
  arguments.insert(arguments.end(), flags_.engine.begin(), flags_.engine.end());
  EXPECT_TRUE(ParseArguments(arguments, engine).ok());
  EXPECT_EQ(engine.engine.max_running, 8u);
  EXPECT_EQ(engine.engine.adapters.size(), 3u);
}

TEST_F(DaemonFlagsTest, TheCommandsOwnComeFirst) {
  double density = 0;
  app_.add_option("--density", density);
  AddDaemonFlags(app_, flags_);
  ASSERT_TRUE(Parse({"m", "--density", "0.5"}));
  EXPECT_EQ(density, 0.5);
  EXPECT_TRUE(flags_.engine.empty());
}

TEST_F(DaemonFlagsTest, WhatTiesTheTwoTogetherIsNotTaken) {
  AddDaemonFlags(app_, flags_);
  for (const char* flag :
       {"--print-config", "--pack=p", "--socket=s", "--store-socket=s", "--listen=127.0.0.1:1",
        "--port-file=f", "--metrics-listen=off", "--config=c", "--none=1"}) {
    EXPECT_FALSE(Parse({"m", flag})) << flag;
  }
  EXPECT_THAT(app_.help(), Not(HasSubstr("--max-running")));
}

TEST_F(DaemonFlagsTest, ValuesAreCheckedAsTheDaemonsDo) {
  StoreConfig store;
  ::testing::internal::CaptureStderr();
  EXPECT_FALSE(
      ParseArguments({"s", "--pack=p", "--memory-budget=1MiB", "--queue-depth=0"}, store).ok());
  ServerConfig engine;
  EXPECT_FALSE(ParseArguments({"e", "--max-running=x"}, engine).ok());
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, HasSubstr("--queue-depth: "));
  EXPECT_THAT(said, HasSubstr("--max-running: 'x'"));
  // What no flag alone can say.
  ServerConfig both;
  EXPECT_THAT(
      std::string(ParseArguments({"e", "--density=0.1", "--density-min=0.5"}, both).message()),
      HasSubstr("--density 0.1 is not inside"));
}

// What --print-config of serve tells of them is what theirs would.
TEST_F(DaemonFlagsTest, AreDescribedAsTheDaemonsDo) {
  AddDaemonFlags(app_, flags_);
  setenv("TIDEGATE_MAX_WAITING", "7", 1);
  ASSERT_TRUE(Parse({"m", "--lora=a,b"}));
  unsetenv("TIDEGATE_MAX_WAITING");
  EXPECT_THAT(flags_.engine, UnorderedElementsAre("--max-waiting=7", "--lora=a,b"));
  std::map<std::string, FlagValue> values;
  for (const FlagValue& value : FlagValues(app_, {})) values[value.name] = value;
  EXPECT_EQ(values["queue-depth"].default_text, absl::StrCat(StoreOptions().queue_depth));
  EXPECT_EQ(values["queue-depth"].variable, "TIDEGATE_QUEUE_DEPTH");
  EXPECT_FALSE(values["queue-depth"].repeated);
  EXPECT_TRUE(values["lora"].repeated);
  EXPECT_EQ(values["keep-region"].type, "BOOLEAN");
  EXPECT_FALSE(values["keep-region"].help.empty());
}

// Every flag of the daemons is a setting that --print-config shows and the environment may give.
TEST_F(DaemonFlagsTest, AllAreSettingsWithVariables) {
  StoreConfig store_config;
  ServerConfig engine_config;
  CLI::App store, engine;
  AddStoreFlags(store, store_config);
  AddServerFlags(engine, engine_config);
  for (const CLI::App* app : {&store, &engine}) {
    std::set<std::string> shown;
    for (const FlagValue& value : FlagValues(*app, {})) {
      shown.insert(value.name);
      EXPECT_THAT(value.variable, ::testing::StartsWith("TIDEGATE_")) << value.name;
    }
    for (const CLI::Option* option : app->get_options()) {
      const std::string& name = option->get_lnames().front();
      EXPECT_EQ(shown.contains(name), IsSetting(name)) << name;
    }
    EXPECT_GT(shown.size(), 15u);
  }
}

}  // namespace tidegate::daemon_flags_test
