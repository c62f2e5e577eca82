// For every flag of every program: what --help shows as its default is what the code uses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <map>
#include <regex>

#include "absl/strings/str_cat.h"
#include "proto/store/v1/defaults.h"
#include "server/config.h"
#include "tests/cli/command_line.h"
#include "weightstore/store_config.h"

namespace tidegate::help_defaults_test {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Engine {
  using Config = ServerConfig;
  static constexpr auto kParse = ParseServerConfig;
  static inline const std::vector<const char*> kNeeded = {"tidegate-engine"};
};
struct Store {
  using Config = StoreConfig;
  static constexpr auto kParse = ParseStoreConfig;
  static inline const std::vector<const char*> kNeeded = {"tidegate-store", "--pack", "p",
                                                          "--memory-budget", "1GiB"};
};

// False: a mistake, which was explained.
template <typename Program>
bool Parse(const std::string& argument, typename Program::Config& config) {
  std::vector<const char*> arguments = Program::kNeeded;
  arguments.push_back(argument.c_str());
  ::testing::internal::CaptureStderr();
  const auto code = Program::kParse(static_cast<int>(arguments.size()), arguments.data(), config);
  std::fflush(stderr);
  ::testing::internal::GetCapturedStderr();
  return !code.has_value();
}

// What help shows with the values of `config` as defaults.
template <typename Program>
std::string Help(typename Program::Config config) {
  ::testing::internal::CaptureStdout();
  const char* const arguments[] = {"program", "--help"};
  EXPECT_EQ(Program::kParse(2, arguments, config), 0);
  std::fflush(stdout);
  return ::testing::internal::GetCapturedStdout();
}

// "--flag TYPE=default" -> flag, default.
std::map<std::string, std::string> Defaults(const std::string& help) {
  static const std::regex kShown(R"(\n  (?:-\w,)?(--[a-z-]+) [^\s=\[]+=(\S+))");
  std::map<std::string, std::string> defaults;
  for (std::sregex_iterator at(help.begin(), help.end(), kShown), end; at != end; ++at) {
    defaults[(*at)[1]] = (*at)[2];
  }
  return defaults;
}

template <typename Program>
class ProgramHelpTest : public ::testing::Test {};
using Programs = ::testing::Types<Engine, Store>;
TYPED_TEST_SUITE(ProgramHelpTest, Programs);

// Given by hand, the default changes nothing; another value is shown in its place, so that none was
// typed into the text.
TYPED_TEST(ProgramHelpTest, ShowsWhatTheCodeUses) {
  const typename TypeParam::Config usual;
  const std::string help = Help<TypeParam>(usual);
  const std::map<std::string, std::string> defaults = Defaults(help);
  ASSERT_GT(defaults.size(), 5u) << help;
  // What is derived from other flags is so by now.
  typename TypeParam::Config plain;
  ASSERT_TRUE(Parse<TypeParam>("--log-level=info", plain));
  const std::map<std::string, std::string> parsed = Defaults(Help<TypeParam>(plain));
  for (const auto& [flag, value] : defaults) {
    typename TypeParam::Config same;
    EXPECT_TRUE(Parse<TypeParam>(absl::StrCat(flag, "=", value), same)) << flag << " " << value;
    EXPECT_EQ(Defaults(Help<TypeParam>(same)), parsed) << flag;
    bool shown = false;
    for (const char* other : {"1", "2", "0.5", "100", "7s", "exact", "dense", "error", "lru", "q8",
                              "json", "1.3", "pread", "127.0.0.1:1", "/run/x.sock"}) {
      typename TypeParam::Config changed;
      if (other == value || !Parse<TypeParam>(absl::StrCat(flag, "=", other), changed)) continue;
      shown = Defaults(Help<TypeParam>(changed))[flag] == other;
      break;
    }
    EXPECT_TRUE(shown) << flag << "=" << value << " is not rendered from its variable";
  }
}

TEST(HelpDefaultsTest, ContextAndReserveNameTheirBound) {
  const std::string bound = absl::StrCat("at most ", kDefaultContextTokens);
  const auto one_line = [](const std::string& help) {
    return std::regex_replace(help, std::regex(R"(\s+)"), " ");
  };
  EXPECT_THAT(one_line(Help<Engine>(ServerConfig())), HasSubstr(bound));
  EXPECT_THAT(one_line(Help<Store>(StoreConfig())), HasSubstr(bound));
}

// Of every command: the default is a value that the flag takes, and that leaves it as it is.
TEST(HelpDefaultsTest, CommandsTakeTheDefaultsThatTheyShow) {
  size_t seen = 0;
  for (const auto add :
       {AddPackCommand,     AddInspectCommand,  AddGenerateCommand, AddChatCommand,
        AddTokenizeCommand, AddTemplateCommand, AddLogitsCommand,   AddEvalCommand,
        AddProfileCommand,  AddSimulateCommand, AddBenchCommand,    AddLoadCommand,
        AddHealthCommand,   AddStatsCommand,    AddDoctorCommand,   AddServeCommand,
        AddRunCommand,      AddPlanCommand,     AddTopCommand,      AddCancelCommand}) {
    EXPECT_THAT(DefaultsNotTaken(add, seen), IsEmpty()) << FactsOf(add).name;
  }
  EXPECT_GT(seen, 40u);
}

}  // namespace tidegate::help_defaults_test
