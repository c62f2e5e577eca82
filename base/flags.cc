#include "base/flags.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <set>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/build_info_values.h"
#include "base/config_file.h"
#include "base/listen_address.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"

namespace tidegate {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;

// "--out" of "-o,--out": how messages name a flag.
std::string LongName(const std::string& names) {
  for (const absl::string_view name : absl::StrSplit(names, ',')) {
    if (absl::StartsWith(name, "--")) return std::string(name);
  }
  return names;
}

// CLI11 reports a bad value by exception.
void ThrowUnlessOk(const std::string& name, const absl::Status& status) {
  if (!status.ok()) throw CLI::ValidationError(name, std::string(status.message()));
}

bool TakesValue(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

bool IsTruth(const std::string& text) {
  static const std::set<std::string>& words =
      *new std::set<std::string>{"true", "false", "yes", "no", "on", "off", "1", "0"};
  return words.contains(absl::AsciiStrToLower(text));
}

// Arguments of the command line, and behind them what environment and file add: what one source
// gives, the weaker ones do not.
class Settings {
 public:
  Settings(const CLI::App& app, std::vector<std::string> arguments)
      : app_(app), arguments_(std::move(arguments)) {
    for (const CLI::Option* option : app.get_options()) {
      const std::vector<std::string>& names = option->get_lnames();
      if (!names.empty()) options_[names.front()] = option;
    }
  }

  absl::Status TakeEnvironment() {
    RETURN_IF_ERROR(RefuseMisspelledVariables());
    const std::vector<std::string> given = arguments_;
    for (const auto& [name, option] : options_) {
      const std::string& variable = option->get_envname();
      const char* value = variable.empty() ? nullptr : std::getenv(variable.c_str());
      if (value == nullptr || *value == '\0' || IsGiven(given, *option)) continue;
      RETURN_IF_ERROR(Add(name, {value}, absl::StrCat("from ", variable)));
    }
    return absl::OkStatus();
  }

  absl::Status TakeFile() {
    const std::string path = ConfigPath();
    if (path.empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxConfigBytes));
    const absl::StatusOr<std::vector<ConfigEntry>> entries = ParseConfig(text);
    if (!entries.ok()) return Annotate(entries.status(), Printable(path));
    const std::vector<std::string> given = arguments_;
    for (const ConfigEntry& entry : *entries) {
      const std::string where = absl::StrCat(Printable(path), ", line ", entry.line);
      ASSIGN_OR_RETURN(const CLI::Option* option, KnownOption(entry.name, where));
      if (IsGiven(given, *option)) continue;
      RETURN_IF_ERROR(Add(entry.name, entry.values, where));
    }
    return absl::OkStatus();
  }

  const std::vector<std::string>& arguments() const { return arguments_; }

  // Where the flag came from that a message begins with; "" for the command line.
  std::string OriginOf(const std::string& message) const {
    const size_t end = message.find_first_of(": ");
    const auto found = origins_.find(message.substr(0, end));
    return found == origins_.end() ? "" : found->second;
  }

 private:
  static bool IsGiven(const std::vector<std::string>& arguments, const CLI::Option& option) {
    return std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
      const auto names = [&](const std::string& name, const char* dashes) {
        const std::string flag = dashes + name;
        return argument == flag || argument.rfind(flag + "=", 0) == 0;
      };
      const auto& lnames = option.get_lnames();
      const auto& snames = option.get_snames();
      return std::any_of(lnames.begin(), lnames.end(),
                         [&](const std::string& name) { return names(name, "--"); }) ||
             std::any_of(snames.begin(), snames.end(),
                         [&](const std::string& name) { return names(name, "-"); });
    });
  }

  absl::Status Add(const std::string& name, const std::vector<std::string>& values,
                   const std::string& origin) {
    const std::string flag = absl::StrCat("--", name);
    if (!TakesValue(*options_.at(name)) && (values.size() != 1 || !IsTruth(values[0]))) {
      return absl::InvalidArgumentError(absl::StrCat(
          origin, ": ", flag, " is ", Quoted(absl::StrJoin(values, ",")), ": use true or false"));
    }
    origins_[flag] = origin;
    for (const std::string& value : values) arguments_.push_back(absl::StrCat(flag, "=", value));
    return absl::OkStatus();
  }

  // A variable that is nearly one of ours was meant to be it. Others may belong to anybody:
  // Kubernetes makes TIDEGATE_PORT and more of the names of services.
  absl::Status RefuseMisspelledVariables() const {
    constexpr size_t kShortName = 18;  // with its prefix; short names are easily near one another
    for (char** entry = environ; *entry != nullptr; ++entry) {
      const std::string_view text = *entry;
      const std::string name(text.substr(0, text.find('=')));
      if (!absl::StartsWith(name, "TIDEGATE_")) continue;
      const size_t most = name.size() < kShortName ? 1 : 2;
      std::string nearest;
      bool known = false;
      for (const auto& [unused, option] : options_) {
        const std::string& variable = option->get_envname();
        known = known || variable == name;
        if (!variable.empty() && EditDistance(name, variable) <= most) nearest = variable;
      }
      if (known || nearest.empty()) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(Quoted(name), " is not known; did you mean ", nearest, "?"));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<const CLI::Option*> KnownOption(const std::string& name,
                                                 const std::string& where) const {
    const auto found = options_.find(name);
    const bool settable =
        found != options_.end() && name != "config" && name != "help" && name != "version";
    if (settable) return found->second;
    std::vector<std::string> known;
    for (const auto& [other, unused] : options_) {
      if (other != "config" && other != "help" && other != "version") known.push_back(other);
    }
    const std::string nearest = NearestName(name, known);
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": ", Quoted(name), " is not known",
                     nearest.empty() ? absl::StrCat("; ", app_.get_name(), " --help lists what is")
                                     : absl::StrCat("; did you mean ", nearest, "?")));
  }

  // What --config names, for which the environment has had its say.
  std::string ConfigPath() const {
    for (size_t i = 0; i < arguments_.size(); ++i) {
      if (arguments_[i] == "--config" && i + 1 < arguments_.size()) return arguments_[i + 1];
      if (absl::StartsWith(arguments_[i], "--config=")) return arguments_[i].substr(9);
    }
    return "";
  }

  const CLI::App& app_;
  std::map<std::string, const CLI::Option*> options_;  // by their first long names
  std::map<std::string, std::string> origins_;         // by "--name"
  std::vector<std::string> arguments_;
};

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
  // Read by ParseFlags(), before CLI11 sees it.
  app.add_option("--config", "File of \"name = value\" lines, names as the flags'")
      ->type_name("FILE")
      ->envname("TIDEGATE_CONFIG");
}

std::optional<int> ParseFlags(CLI::App& app, int argc, const char* const* argv) {
  Settings settings(app, std::vector<std::string>(argv + 1, argv + argc));
  try {
    ThrowUnlessOk("the environment", settings.TakeEnvironment());
    ThrowUnlessOk("--config", settings.TakeFile());
    std::vector<std::string> arguments = settings.arguments();
    std::reverse(arguments.begin(), arguments.end());  // the order that CLI11 takes them in
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    const std::string origin = settings.OriginOf(error.what());
    if (origin.empty()) return ExplainParseError(app, error);
    return ExplainParseError(app,
                             CLI::ValidationError(absl::StrCat(error.what(), " (", origin, ")")));
  }
  return std::nullopt;
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

}  // namespace tidegate
