#include "base/flags.h"

#include <algorithm>
#include <cstdio>
#include <iostream>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/build_info_values.h"
#include "base/flag_sources.h"
#include "base/flag_values.h"
#include "base/listen_address.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"

namespace tidegate {
namespace {

// "--out" of "-o,--out": how messages name a flag.
std::string LongName(const std::string& names) {
  for (const absl::string_view name : absl::StrSplit(names, ',')) {
    if (name.substr(0, 2) == "--") return std::string(name);
  }
  return names;
}

// CLI11 reports a bad value by exception.
void ThrowUnlessOk(const std::string& name, const absl::Status& status) {
  if (!status.ok()) throw CLI::ValidationError(name, std::string(status.message()));
}

// The duration as ParseDuration() takes it back: "120s".
std::string DurationText(std::chrono::nanoseconds duration) {
  constexpr std::pair<int64_t, const char*> kUnits[] = {
      {1000000000, "s"}, {1000000, "ms"}, {1000, "us"}, {1, "ns"}};
  for (const auto& [nanoseconds, name] : kUnits) {
    if (duration.count() % nanoseconds == 0)
      return absl::StrCat(duration.count() / nanoseconds, name);
  }
  return "";
}

// What help shows as the value of a number.
std::string RangeName(IntegerRange range) {
  const bool open = range.high >= std::numeric_limits<uint32_t>::max();
  if (open) return range.low == 0 ? "N" : absl::StrCat("N>=", range.low);
  return absl::StrCat(range.low, "..", range.high);
}

std::string RangeName(RealRange range) {
  if (range.low < -1e30 || range.high > 1e30) return "X";
  return absl::StrCat(range.low, "..", range.high);
}

}  // namespace

Flag Flag::Type(const std::string& name) const {
  option_->type_name(name);
  return *this;
}

Flag Flag::Default(const std::string& text) const {
  option_->default_str(text);
  return *this;
}

Flag Flag::Variable(const std::string& name) const {
  option_->envname(name);
  return *this;
}

Flag Flag::Required() const {
  option_->required();
  return *this;
}

Flag Flag::Excludes(const Flag& other) const {
  option_->excludes(other.option_);
  return *this;
}

std::shared_ptr<CLI::App> MakeProgram(const std::string& about, const std::string& footer) {
  auto app = std::make_shared<CLI::App>(about);
  app->footer(footer);
  return app;
}

CLI::App& AddSubcommand(CLI::App& app, const std::string& name, const std::string& about,
                        const std::string& footer, std::function<void(const CLI::App&)> chosen) {
  CLI::App& command = *app.add_subcommand(name, about);
  command.footer(footer);
  command.callback([&command, chosen = std::move(chosen)] { chosen(command); });
  return command;
}

void AddCommonFlags(CLI::App& app, const std::string& program) {
  app.name(program);
  app.set_version_flag("--version",
                       absl::StrCat(program, " ", TIDEGATE_VERSION, " (", TIDEGATE_REVISION, ")"));
  AddConfigFlags(app);
}

void AddConfigFlags(CLI::App& app) {
  // Read by ParseFlags(), before CLI11 sees it.
  app.add_option("--config", "File of \"name = value\" lines, names as the flags'")
      ->type_name("FILE")
      ->envname("TIDEGATE_CONFIG");
  app.add_option(kPrintConfigFlag,
                 "Print every setting and where it comes from, and exit: text, a file for "
                 "--config; json, with types, variables and help")
      ->expected(0, 1)
      ->check(CLI::Validator(
          [](const std::string& form) {
            const bool known = form.empty() || form == "text" || form == "json";
            return std::string(known ? "" : "use text or json");
          },
          "FORM"));
}

namespace {

bool WantsConfig(const CLI::App& command) {
  const CLI::Option* print = command.get_option_no_throw(kPrintConfigFlag);
  return print != nullptr && print->count() > 0;
}

// Parses `arguments` of `command`, which is `app` itself or a subcommand of it, or throws what
// CLI11 throws; the message says where a wrong value came from.
std::vector<FlagValue> ParseOrThrow(CLI::App& app, CLI::App& command,
                                    std::vector<std::string> arguments) {
  FlagSources sources(command, std::move(arguments));
  try {
    ThrowUnlessOk("the environment", sources.TakeEnvironment());
    ThrowUnlessOk("--config", sources.TakeFile());
    std::vector<std::string> all = sources.arguments();
    if (&command != &app) all.insert(all.begin(), command.get_name());
    std::reverse(all.begin(), all.end());  // the order that CLI11 takes them in
    app.parse(all);
  } catch (const CLI::RequiredError&) {
    // Settings can be looked at before all are there.
    if (!WantsConfig(command)) throw;
  } catch (const CLI::ParseError& error) {
    const std::string origin = sources.OriginOf(error.what());
    if (error.get_exit_code() == 0 || origin.empty()) throw;
    throw CLI::ValidationError(absl::StrCat(error.what(), " (", origin, ")"));
  }
  return FlagValues(command, sources.origins());
}

std::optional<int> ParseAndAnswer(CLI::App& app, CLI::App& command, const std::string& name,
                                  std::vector<std::string> arguments) {
  std::vector<FlagValue> values;
  try {
    values = ParseOrThrow(app, command, std::move(arguments));
  } catch (const CLI::ParseError& error) {
    return ExplainParseError(app, error);
  }
  if (!WantsConfig(command)) return std::nullopt;
  const bool json =
      command.get_option(kPrintConfigFlag)->results() == std::vector<std::string>{"json"};
  std::fputs((json ? ConfigJson(name, values) : ConfigText(name, values)).c_str(), stdout);
  return 0;
}

}  // namespace

std::optional<int> ParseFlags(CLI::App& app, int argc, const char* const* argv) {
  return ParseAndAnswer(app, app, app.get_name(), {argv + 1, argv + argc});
}

std::optional<int> ParseProgram(CLI::App& app, int argc, const char* const* argv) {
  std::vector<CLI::App*> named;
  if (argc > 1) {
    named = app.get_subcommands(
        [argv](const CLI::App* command) { return command->get_name() == argv[1]; });
  }
  CLI::App* command = named.empty() ? nullptr : named.front();
  if (command != nullptr && command->get_option_no_throw(kPrintConfigFlag) != nullptr) {
    return ParseAndAnswer(app, *command, absl::StrCat("tidegate ", command->get_name()),
                          {argv + 2, argv + argc});
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return ExplainParseError(app, error);
  }
  return std::nullopt;
}

absl::StatusOr<std::vector<FlagValue>> ReadFlags(CLI::App& app, int argc, const char* const* argv) {
  try {
    return ParseOrThrow(app, app, {argv + 1, argv + argc});
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
}

int ExplainParseError(const CLI::App& app, const CLI::ParseError& error) {
  constexpr size_t kMaxMessageBytes = 4096;
  if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
  std::cerr << PrintableLines(error.what(), kMaxMessageBytes)
            << "\nRun with --help for more information.\n";
  return error.get_exit_code();
}

Flag AddSwitch(CLI::App& app, const std::string& names, bool& value, const std::string& help) {
  return Flag(*app.add_flag(names, value, help));
}

Flag AddSwitch(CLI::App& app, const std::string& names, std::function<void()> set,
               const std::string& help) {
  return Flag(*app.add_flag_callback(names, std::move(set), help));
}

Flag AddTextFlag(CLI::App& app, const std::string& names, std::string& value,
                 const std::string& help) {
  return Flag(*app.add_option(names, value, help)->capture_default_str());
}

Flag AddFileFlag(CLI::App& app, const std::string& names, std::string& value,
                 const std::string& help) {
  const auto complaint = [](const std::string& name) {
    return std::string(name.empty() ? "name a file" : "");
  };
  return Flag(*app.add_option(names, value, help)->check(CLI::Validator(complaint, "FILE")));
}

Flag AddChoiceFlag(CLI::App& app, const std::string& names, std::string& value,
                   const std::vector<std::string>& words, const std::string& help) {
  return Flag(
      *app.add_option(names, value, help)->check(CLI::IsMember(words))->capture_default_str());
}

Flag AddChoiceListFlag(CLI::App& app, const std::string& names, std::vector<std::string>& values,
                       const std::vector<std::string>& words, const std::string& help) {
  CLI::Option* option = app.add_option(names, values, help);
  return Flag(*option->delimiter(',')->check(CLI::IsMember(words))->capture_default_str());
}

Flag AddRepeatedFlag(CLI::App& app, const std::string& names,
                     std::function<void(const std::vector<std::string>&)> set,
                     const std::string& help) {
  return Flag(*app.add_option_function<std::vector<std::string>>(names, std::move(set), help));
}

Flag AddTextFlag(CLI::App& app, const std::string& names, TakeText take, const std::string& help) {
  return Flag(*app.add_option_function<std::string>(
      names,
      [name = LongName(names), take = std::move(take)](const std::string& text) {
        ThrowUnlessOk(name, take(text));
      },
      help));
}

Flag AddTextListFlag(CLI::App& app, const std::string& names, std::function<void()> clear,
                     TakeText take, const std::string& help) {
  CLI::Option* option = app.add_option_function<std::vector<std::string>>(
      names,
      [name = LongName(names), clear = std::move(clear),
       take = std::move(take)](const std::vector<std::string>& texts) {
        if (texts.empty()) {
          ThrowUnlessOk(name, absl::InvalidArgumentError("the list is empty"));
        }
        clear();
        for (const std::string& text : texts) ThrowUnlessOk(name, take(text));
      },
      help);
  return Flag(*option->delimiter(','));
}

Flag AddIntegerFlag(CLI::App& app, const std::string& names, std::function<void(uint64_t)> set,
                    IntegerRange range, const std::string& help) {
  return AddTextFlag(
             app, names,
             [set = std::move(set), range](const std::string& text) {
               const absl::StatusOr<uint64_t> value = ParseInteger(text, range);
               if (value.ok()) set(*value);
               return value.status();
             },
             help)
      .Type(RangeName(range));
}

Flag AddRealFlag(CLI::App& app, const std::string& names, std::function<void(double)> set,
                 RealRange range, const std::string& help) {
  return AddTextFlag(
             app, names,
             [set = std::move(set), range](const std::string& text) {
               const absl::StatusOr<double> value = ParseReal(text, range);
               if (value.ok()) set(*value);
               return value.status();
             },
             help)
      .Type(RangeName(range));
}

Flag AddRealFlag(CLI::App& app, const std::string& names, std::optional<double>& value,
                 RealRange range, const std::string& help) {
  return AddRealFlag(
      app, names, [&value](double v) { value = v; }, range, help);
}

Flag AddRealListFlag(CLI::App& app, const std::string& names, std::vector<double>& values,
                     RealRange range, const std::string& help) {
  return AddTextListFlag(
             app, names, [&values] { values.clear(); },
             [&values, range](const std::string& text) {
               const absl::StatusOr<double> value = ParseReal(text, range);
               if (value.ok()) values.push_back(*value);
               return value.status();
             },
             help)
      .Type(absl::StrCat(RangeName(range), ",..."))
      .Default(absl::StrJoin(values, ","));
}

Flag AddBytesFlag(CLI::App& app, const std::string& names, uint64_t& value,
                  const std::string& help) {
  return AddTextFlag(
             app, names,
             [&value](const std::string& text) {
               const absl::StatusOr<uint64_t> bytes = ParseBytes(text);
               if (bytes.ok()) value = *bytes;
               return bytes.status();
             },
             help)
      .Type("BYTES");
}

Flag AddDurationFlag(CLI::App& app, const std::string& names, std::chrono::nanoseconds& value,
                     const std::string& help) {
  return AddTextFlag(
             app, names,
             [&value](const std::string& text) {
               const absl::StatusOr<std::chrono::nanoseconds> duration = ParseDuration(text);
               if (duration.ok()) value = *duration;
               return duration.status();
             },
             help)
      .Type("TIME")
      .Default(DurationText(value));
}

Flag AddAddressFlag(CLI::App& app, const std::string& names, std::string& value,
                    const std::string& help, bool off) {
  return AddTextFlag(
             app, names,
             [&value, off](const std::string& text) {
               const bool none = off && text == "off";
               const absl::Status status =
                   none ? absl::OkStatus() : ParseListenAddress(text).status();
               if (status.ok()) value = none ? "" : text;
               return status;
             },
             help)
      .Type("ADDRESS")
      .Default(value);
}

Flag AddSocketFlag(CLI::App& app, const std::string& names, std::string& value, size_t max_bytes,
                   const std::string& help) {
  return AddTextFlag(
             app, names,
             [&value, max_bytes](const std::string& text) {
               if (text.empty() || text.size() > max_bytes) {
                 return absl::InvalidArgumentError(
                     absl::StrCat(Quoted(text), " has ", text.size(), " bytes; from 1 to ",
                                  max_bytes, " fit into the address of a Unix socket"));
               }
               value = text;
               return absl::OkStatus();
             },
             help)
      .Type("PATH")
      .Default(value);
}

Flag AddLogLevelFlag(CLI::App& app, LogLevel& value) {
  static const std::vector<std::pair<std::string, LogLevel>> kLevels = {
      {"debug", LogLevel::kDebug},
      {"info", LogLevel::kInfo},
      {"warning", LogLevel::kWarning},
      {"error", LogLevel::kError}};
  return AddTextFlag(
             app, "--log-level",
             [&value](const std::string& text) {
               for (const auto& [name, level] : kLevels) {
                 if (name != text) continue;
                 value = level;
                 return absl::OkStatus();
               }
               return absl::InvalidArgumentError(
                   absl::StrCat(Quoted(text), ": use debug, info, warning or error"));
             },
             "Lowest level logged: debug, info, warning, error")
      .Type("LEVEL")
      .Default(std::find_if(kLevels.begin(), kLevels.end(),
                            [&value](const auto& level) { return level.second == value; })
                   ->first)
      .Variable("TIDEGATE_LOG_LEVEL");
}

Flag AddLogFormatFlag(CLI::App& app, LogFormat& value) {
  return AddTextFlag(
             app, "--log-format",
             [&value](const std::string& text) {
               if (text != "text" && text != "json") {
                 return absl::InvalidArgumentError(
                     absl::StrCat(Quoted(text), ": use text or json"));
               }
               value = text == "json" ? LogFormat::kJson : LogFormat::kText;
               return absl::OkStatus();
             },
             "Log lines as text, or each as a JSON object with ts, severity, program and message: "
             "text, json")
      .Type("FORMAT")
      .Default(value == LogFormat::kJson ? "json" : "text")
      .Variable("TIDEGATE_LOG_FORMAT");
}

}  // namespace tidegate
