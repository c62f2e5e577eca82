#include "base/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <map>

#include "CLI/CLI.hpp"
#include "base/flag_sources.h"
#include "base/flag_values.h"
#include "base/settings_reload.h"
#include "nlohmann/json.hpp"
#include "tests/support/test_support.h"

namespace tidegate::flags_test {

using testing::ElementsAre;

class SettingsTest : public testing::Test {
 protected:
  SettingsTest() {
    AddCommonFlags(app_, "prog");
    AddTextFlag(app_, "--listen", listen_, "").Variable("TIDEGATE_TEST_LISTEN");
    AddIntegerFlag(app_, "--max-running", running_, {1, 10}, "").Variable("TIDEGATE_TEST_RUNNING");
    AddTextListFlag(
        app_, "--names", [this] { names_.clear(); },
        [this](const std::string& name) {
          names_.push_back(name);
          return absl::OkStatus();
        },
        "")
        .Variable("TIDEGATE_TEST_NAMES");
    AddSwitch(app_, "--keep", keep_, "").Variable("TIDEGATE_TEST_KEEP");
  }
  ~SettingsTest() override {
    for (const std::string& name : set_) unsetenv(name.c_str());
  }

  void Set(const std::string& name, const std::string& value) {
    setenv(name.c_str(), value.c_str(), 1);
    set_.push_back(name);
  }
  // Standard error of a run with this file; empty if it went well.
  std::string Run(const std::string& config, std::vector<std::string> arguments = {}) {
    WriteFileOrDie(path_, config);
    arguments.insert(arguments.begin(), {"prog", "--config", path_});
    std::vector<const char*> argv;
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    testing::internal::CaptureStderr();
    const auto code = ParseFlags(app_, static_cast<int>(argv.size()), argv.data());
    const std::string err = testing::internal::GetCapturedStderr();
    EXPECT_EQ(code.value_or(0) != 0, !err.empty()) << err;
    return err;
  }

  TempDir folder_;
  const std::string path_ = folder_.File("c");
  CLI::App app_;
  std::string listen_;
  uint32_t running_ = 1;
  std::vector<std::string> names_;
  bool keep_ = false;
  std::vector<std::string> set_;
};

TEST_F(SettingsTest, CommandLineBeatsEnvironmentBeatsFile) {
  Set("TIDEGATE_TEST_LISTEN", "env");
  Set("TIDEGATE_TEST_RUNNING", "5");
  Set("TIDEGATE_TEST_NAMES", "");  // as not set
  EXPECT_EQ(Run("listen = file\nmax-running = 6\nnames = [a, \"b,c\"]\nkeep = true\n",
                {"--listen", "line"}),
            "");
  EXPECT_EQ(listen_, "line");
  EXPECT_EQ(running_, 5u);
  EXPECT_THAT(names_, ElementsAre("a", "b", "c"));
  EXPECT_TRUE(keep_);
}

TEST_F(SettingsTest, UnknownKeysAreRefusedWithTheNearestOne) {
  const std::pair<const char*, const char*> cases[] = {
      {"\nlistne = x\n", "line 2: 'listne' is not known; did you mean listen?"},
      {"max_running = 2\n", "line 1: 'max_running' is not known; did you mean max-running?"},
      {"colour = red\n", "line 1: 'colour' is not known; prog --help lists"},
      {"[listen]\n", "line 1: section '[listen]' is not known"},
      {"config = x\n", "'config' is not known"},
      {"help = true\n", "'help' is not known"},
      {"listen = a\nlisten = b\n", "line 2: 'listen' stands in line 1 already"},
      {"keep = perhaps\n", "line 1: --keep is 'perhaps': use true or false"},
      {"keep = [true, true]\n", "--keep is 'true,true'"}};
  for (const auto& [config, message] : cases) {
    EXPECT_THAT(Run(config),
                testing::AllOf(testing::HasSubstr(message), testing::HasSubstr(path_)));
  }
}

TEST_F(SettingsTest, AnEmptyValueIsOne) {
  listen_ = "x";
  EXPECT_EQ(Run("listen = \"\"\nmax-running = 3\n", {"--keep"}), "");
  EXPECT_EQ(listen_, "");
  EXPECT_EQ(running_, 3u);
  EXPECT_TRUE(keep_);
}

TEST_F(SettingsTest, WrongValuesNameWhereTheyStand) {
  EXPECT_THAT(Run("listen = a\nmax-running = 99\n"),
              testing::AllOf(testing::StartsWith("--max-running: '99' is not a whole number"),
                             testing::HasSubstr("line 2")));
  Set("TIDEGATE_TEST_RUNNING", "-1");
  EXPECT_THAT(Run(""), testing::HasSubstr("(from TIDEGATE_TEST_RUNNING)"));
}

TEST_F(SettingsTest, MisspelledVariablesAreRefused) {
  Set("TIDEGATE_TEST_RUNING", "3");
  EXPECT_THAT(Run(""), testing::HasSubstr("'TIDEGATE_TEST_RUNING' is not known; did you mean "
                                          "TIDEGATE_TEST_RUNNING?"));
  unsetenv("TIDEGATE_TEST_RUNING");
  // What Kubernetes makes of a service's name is none of ours.
  Set("TIDEGATE_PORT", "tcp://10.0.0.1:50051");
  Set("TIDEGATE_SERVICE_HOST", "10.0.0.1");
  EXPECT_EQ(Run(""), "");
}

// What --print-config writes.
class PrintConfigTest : public SettingsTest {
 protected:
  std::string Print(const std::string& config, std::vector<std::string> arguments) {
    testing::internal::CaptureStdout();
    EXPECT_EQ(Run(config, std::move(arguments)), "");
    std::fflush(stdout);
    return testing::internal::GetCapturedStdout();
  }
};

TEST_F(PrintConfigTest, ShowsValuesAndSourcesAndReadsBack) {
  Set("TIDEGATE_TEST_NAMES", "a,b");
  const std::string text =
      Print("keep = true\n", {"--listen", "with # \"quotes\"", "--print-config"});
  for (const char* line :
       {"\nkeep = true +# file: .*c, line 1\n", "\nlisten = 'with # \"quotes\"' +# flag\n",
        "\nnames = \\[a, b\\] +# environment: TIDEGATE_TEST_NAMES\n",
        "\n# max-running = 1 +# default\n"}) {
    EXPECT_THAT(text, testing::ContainsRegex(line));
  }
  EXPECT_EQ(text.find("print-config ="), std::string::npos);
  unsetenv("TIDEGATE_TEST_NAMES");
  listen_.clear();
  names_.clear();
  EXPECT_EQ(Run(text), "");
  EXPECT_EQ(listen_, "with # \"quotes\"");
  EXPECT_THAT(names_, ElementsAre("a", "b"));
  EXPECT_TRUE(keep_);
}

TEST_F(PrintConfigTest, JsonIsTheSchemaToo) {
  std::string needed;
  AddTextFlag(app_, "--needed", needed, "What is \"needed\"").Required();
  const auto json =
      nlohmann::json::parse(Print("max-running = 3\nnames = [x]\n", {"--print-config=json"}));
  EXPECT_EQ(json.at("program"), "prog");
  std::map<std::string, nlohmann::json> settings;
  for (const auto& setting : json.at("settings")) settings[setting.at("name")] = setting;
  EXPECT_EQ(settings.size(), 5u);
  EXPECT_EQ(settings["max-running"].at("value"), "3");
  EXPECT_EQ(settings["max-running"].at("default"), "1");
  EXPECT_EQ(settings["max-running"].at("source"), "file");
  EXPECT_EQ(settings["max-running"].at("type"), "1..10");
  EXPECT_EQ(settings["max-running"].at("variable"), "TIDEGATE_TEST_RUNNING");
  EXPECT_EQ(settings["names"].at("value"), nlohmann::json({"x"}));
  EXPECT_EQ(settings["keep"].at("value"), "false");
  EXPECT_EQ(settings["needed"].at("value"), nullptr);
  EXPECT_EQ(settings["needed"].at("required"), true);
  EXPECT_EQ(settings["needed"].at("help"), "What is \"needed\"");
}

// Of a program with subcommands.
TEST_F(PrintConfigTest, SubcommandsHaveSettingsToo) {
  Set("TIDEGATE_TEST_SPEED", "2");
  WriteFileOrDie(path_, "size = 3\nspeed = 4\n");
  const auto run = [&](std::vector<const char*> arguments, uint32_t& speed, uint32_t& size) {
    CLI::App program;
    std::string model;
    bool chosen = false;
    CLI::App& command =
        AddSubcommand(program, "serve", "", "", [&](const CLI::App&) { chosen = true; });
    AddTextFlag(command, "MODEL", model, "").Required();
    AddIntegerFlag(command, "--speed", speed, {0, 9}, "").Variable("TIDEGATE_TEST_SPEED");
    AddIntegerFlag(command, "--size", size, {0, 9}, "");
    AddConfigFlags(command);
    arguments.insert(arguments.begin(), {"tidegate", "serve", "--config", path_.c_str()});
    const auto code = ParseProgram(program, static_cast<int>(arguments.size()), arguments.data());
    return code.has_value() ? *code : chosen ? -1 : -2;
  };
  uint32_t speed = 0, size = 0;
  EXPECT_EQ(run({"m.gguf"}, speed, size), -1);
  EXPECT_EQ(speed, 2u);
  EXPECT_EQ(size, 3u);
  testing::internal::CaptureStdout();
  EXPECT_EQ(run({"--speed=5", "--print-config"}, speed, size), 0);
  std::fflush(stdout);
  const std::string text = testing::internal::GetCapturedStdout();
  EXPECT_THAT(text, testing::ContainsRegex("# Settings of tidegate serve "));
  EXPECT_THAT(text, testing::ContainsRegex("\nspeed = 5 +# flag\n"));
  EXPECT_THAT(text, testing::ContainsRegex("\nsize = 3 +# file: .*c, line 1\n"));
  WriteFileOrDie(path_, "size = 30\n");
  testing::internal::CaptureStderr();
  EXPECT_GT(run({"m.gguf"}, speed, size), 0);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr("c, line 1)"));
}

TEST_F(SettingsTest, ReadAgainTheyTellWhatChanged) {
  WriteFileOrDie(path_, "max-running = 2\n");
  const char* const argv[] = {"prog", "--config", path_.c_str()};
  const auto before = ReadFlags(app_, 3, argv);
  ASSERT_TRUE(before.ok());
  WriteFileOrDie(path_, "max-running = 3\nkeep = true\nlisten = x\n");
  const auto after = ReadFlags(app_, 3, argv);
  ASSERT_TRUE(after.ok());
  EXPECT_THAT(ChangedFlags(*before, *after, {"listen"}), ElementsAre("keep", "max-running"));
  testing::internal::CaptureStderr();
  TellOfUntaken(*before, *after);
  TellOfUntaken(*after, *after);
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              testing::EndsWith("only after the next start: keep, listen, max-running\n"));
  WriteFileOrDie(path_, "max-running = 30\n");
  const absl::Status wrong = ReadFlags(app_, 3, argv).status();
  EXPECT_THAT(std::string(wrong.message()), testing::HasSubstr("c, line 1)"));
}

TEST_F(SettingsTest, FilesThatCannotBeReadAreErrors) {
  for (const std::string& path : {folder_.path(), folder_.File("none"), std::string("/dev/zero")}) {
    const char* const argv[] = {"prog", "--config", path.c_str()};
    testing::internal::CaptureStderr();
    EXPECT_NE(ParseFlags(app_, 3, argv).value_or(0), 0);
    EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr(path));
  }
}

TEST(Flags, MistakesArePrintedWithoutControlCharacters) {
  CLI::App app;
  const char* const argv[] = {"x", "\x1b[31mred", "\xff"};
  testing::internal::CaptureStderr();
  EXPECT_NE(ParseFlags(app, 3, argv).value_or(0), 0);
  const std::string err = testing::internal::GetCapturedStderr();
  EXPECT_EQ(err.find('\x1b'), std::string::npos);
  EXPECT_THAT(err, testing::HasSubstr("\\u{1b}[31mred"));
}

TEST(Flags, ParsesQuantities) {
  CLI::App app;
  uint64_t bytes = 0;
  std::chrono::nanoseconds time{0};
  LogLevel level = LogLevel::kInfo;
  AddBytesFlag(app, "--bytes", bytes, "");
  AddDurationFlag(app, "--time", time, "");
  AddLogLevelFlag(app, level);
  const char* const good[] = {"x", "--bytes", "2KiB", "--time=3s", "--log-level", "error"};
  EXPECT_EQ(ParseFlags(app, 6, good), std::nullopt);
  EXPECT_EQ(bytes, 2048u);
  EXPECT_EQ(time, std::chrono::seconds(3));
  EXPECT_EQ(level, LogLevel::kError);
  const char* const bad[] = {"x", "--bytes", "much"};
  EXPECT_NE(ParseFlags(app, 3, bad).value_or(0), 0);
}

// What ParseFlags() says about "--n VALUE" on standard error; empty if it takes it.
std::string Complaint(CLI::App& app, const std::string& flag, const std::string& value) {
  const char* const arguments[] = {"x", flag.c_str(), value.c_str()};
  testing::internal::CaptureStderr();
  const std::optional<int> code = ParseFlags(app, 3, arguments);
  const std::string complaint = testing::internal::GetCapturedStderr();
  EXPECT_EQ(code.has_value(), !complaint.empty());
  EXPECT_NE(code, 0);
  return complaint;
}

TEST(Flags, NumbersAreCheckedAndRangesNamed) {
  CLI::App app;
  uint32_t small = 3;
  uint64_t large = 0;
  double share = 0.5;
  std::optional<double> unset;
  std::vector<double> list = {1, 0.5};
  AddIntegerFlag(app, "--small,-s", small, {1, 100}, "");
  EXPECT_EQ(app.get_option("--small")->get_default_str(), "3");
  AddIntegerFlag(app, "--large", large, {}, "");
  AddRealFlag(app, "--share", share, {0, 1, true}, "");
  AddRealFlag(app, "--unset", unset, {0, 1}, "");
  AddRealListFlag(app, "--list", list, {0, 1}, "");
  EXPECT_EQ(app.get_option("--list")->get_default_str(), "1,0.5");
  for (const char* bad : {"-1", "0", "101", "99999999999999999999999", "4294967297", "", "5x",
                          "0x10", "+5", "1e1", " 5"}) {
    EXPECT_THAT(Complaint(app, "--small", bad),
                testing::HasSubstr("is not a whole number from 1 to 100"));
  }
  EXPECT_THAT(Complaint(app, "-s", "0"), testing::StartsWith("--small: '0' is not"));
  EXPECT_THAT(Complaint(app, "--large", "-1"),
              testing::HasSubstr("from 0 to 18446744073709551615"));
  for (const char* bad : {"0", "1.01", "nan", "inf", "-1", "", "x"}) {
    EXPECT_THAT(Complaint(app, "--share", bad), testing::HasSubstr("above 0 up to 1")) << bad;
  }
  EXPECT_THAT(Complaint(app, "--list", "0.5,2"), testing::StartsWith("--list: '2' is not"));
  EXPECT_EQ(Complaint(app, "--small", "010"), "");
  EXPECT_EQ(small, 10u);
  EXPECT_EQ(Complaint(app, "--large", "18446744073709551615"), "");
  EXPECT_EQ(large, std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(Complaint(app, "--unset", "0.25"), "");
  EXPECT_EQ(unset, 0.25);
  EXPECT_EQ(Complaint(app, "--list", "0.75,0"), "");
  EXPECT_THAT(list, ElementsAre(0.75, 0));
}

TEST(Flags, TextsFilesAndWords) {
  CLI::App app;
  std::string text = "usual", file, word = "a";
  std::vector<std::string> words = {"b"}, repeated;
  bool on = false, off = true;
  AddTextFlag(app, "--text", text, "");
  AddFileFlag(app, "--file", file, "");
  AddChoiceFlag(app, "--word", word, {"a", "b"}, "");
  AddChoiceListFlag(app, "--words", words, {"a", "b"}, "");
  AddRepeatedFlag(
      app, "--each", [&](const std::vector<std::string>& all) { repeated = all; }, "");
  AddSwitch(app, "--on", on, "");
  AddSwitch(
      app, "--no-off", [&] { off = false; }, "");
  EXPECT_THAT(app.help(), testing::HasSubstr("--text TEXT=usual"));
  EXPECT_THAT(app.help(), testing::HasSubstr("--word TEXT:{a,b}=a"));
  EXPECT_THAT(app.help(), testing::HasSubstr("--file TEXT:FILE"));
  EXPECT_THAT(Complaint(app, "--file", ""), testing::StartsWith("--file: name a file"));
  EXPECT_THAT(Complaint(app, "--word", "c"), testing::HasSubstr("c not in {a,b}"));
  EXPECT_THAT(Complaint(app, "--words", "a,c"), testing::HasSubstr("c not in {a,b}"));
  const char* const good[] = {"x",   "--text", "t",   "--file", "f", "--word", "b",       "--words",
                              "a,b", "--each", "1,2", "--each", "3", "--on",   "--no-off"};
  EXPECT_EQ(ParseFlags(app, 15, good), std::nullopt);
  EXPECT_EQ(text + file + word, "tfb");
  EXPECT_THAT(words, ElementsAre("a", "b"));
  EXPECT_THAT(repeated, ElementsAre("1,2", "3"));
  EXPECT_TRUE(on);
  EXPECT_FALSE(off);
}

TEST(Flags, SubcommandsSayThatTheyWereChosen) {
  const std::shared_ptr<CLI::App> app = MakeProgram("About.", "The end.");
  std::string needed;
  size_t chosen = 0;
  AddTextFlag(AddSubcommand(*app, "go", "Goes.", "Like this.", [&](const CLI::App&) { ++chosen; }),
              "--needed", needed, "")
      .Type("THING")
      .Required();
  EXPECT_THAT(app->help(), testing::AllOf(testing::HasSubstr("About."), testing::HasSubstr("Goes."),
                                          testing::HasSubstr("The end.")));
  EXPECT_THAT(
      app->get_subcommand("go")->help(),
      testing::AllOf(testing::HasSubstr("--needed THING"), testing::HasSubstr("Like this.")));
  const char* const arguments[] = {"x", "go", "--needed=1"};
  testing::internal::CaptureStderr();
  EXPECT_NE(ParseFlags(*app, 2, arguments).value_or(0), 0);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr("--needed is required"));
  EXPECT_EQ(chosen, 0u);
  EXPECT_EQ(ParseFlags(*app, 3, arguments), std::nullopt);
  EXPECT_EQ(chosen, 1u);
}

TEST(Flags, AddressesAndSocketsAreCheckedAtOnce) {
  CLI::App app;
  std::string address = "127.0.0.1:1", metrics = "127.0.0.1:2", socket = "/s";
  AddAddressFlag(app, "--listen", address, "");
  AddAddressFlag(app, "--metrics", metrics, "", /*off=*/true);
  AddSocketFlag(app, "--socket", socket, 102, "");
  for (const char* bad : {"127.0.0.1:99999", "127.0.0.1:", "127.0.0.1:-1", "127.0.0.1:+5", ":5", "",
                          "999.1.1.1:0", "off", "127.0.0.1:65536", "::1:5", "127.0.0.1:5 "}) {
    EXPECT_THAT(Complaint(app, "--listen", bad), testing::StartsWith("--listen: ")) << bad;
  }
  EXPECT_EQ(Complaint(app, "--listen", "[::1]:65535"), "");
  EXPECT_EQ(address, "[::1]:65535");
  EXPECT_EQ(Complaint(app, "--metrics", "off"), "");
  EXPECT_EQ(metrics, "");
  EXPECT_EQ(Complaint(app, "--socket", std::string(102, 's')), "");
  EXPECT_THAT(Complaint(app, "--socket", std::string(103, 's')),
              testing::HasSubstr("has 103 bytes; from 1 to 102"));
  EXPECT_EQ(socket.size(), 102u);
}

}  // namespace tidegate::flags_test
