#include "base/flag_sources.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/config_file.h"
#include "base/flag_values.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace tidegate {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;

bool IsTruth(const std::string& text) {
  static const std::set<std::string>& words =
      *new std::set<std::string>{"true", "false", "yes", "no", "on", "off", "1", "0"};
  return words.contains(absl::AsciiStrToLower(text));
}

bool IsGiven(const std::vector<std::string>& arguments, const CLI::Option& option) {
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

// How messages name it; "" for the command line.
std::string Described(const FlagOrigin& origin) {
  return origin.source == FlagSource::kEnvironment ? absl::StrCat("from ", origin.where)
                                                   : origin.where;
}

}  // namespace

const char* FlagSourceName(FlagSource source) {
  static constexpr const char* kNames[] = {"unset", "default", "file", "environment", "flag"};
  return kNames[static_cast<int>(source)];
}

FlagSources::FlagSources(const CLI::App& app, std::vector<std::string> arguments)
    : app_(app), arguments_(std::move(arguments)) {
  for (const CLI::Option* option : app.get_options()) {
    const std::vector<std::string>& names = option->get_lnames();
    if (!names.empty()) options_[names.front()] = option;
  }
}

void AppendFlag(const std::string& flag, const std::string& value,
                std::vector<std::string>& arguments) {
  if (!value.empty()) return arguments.push_back(absl::StrCat(flag, "=", value));
  arguments.push_back(flag);
  arguments.push_back(value);
}

absl::Status FlagSources::TakeEnvironment() {
  RETURN_IF_ERROR(RefuseMisspelledVariables());
  const std::vector<std::string> given = arguments_;
  for (const auto& [name, option] : options_) {
    const std::string& variable = option->get_envname();
    const char* value = variable.empty() ? nullptr : std::getenv(variable.c_str());
    if (value == nullptr || *value == '\0' || IsGiven(given, *option)) continue;
    RETURN_IF_ERROR(Add(name, {value}, {FlagSource::kEnvironment, variable}));
  }
  return absl::OkStatus();
}

absl::Status FlagSources::TakeFile() {
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
    RETURN_IF_ERROR(Add(entry.name, entry.values, {FlagSource::kFile, where}));
  }
  return absl::OkStatus();
}

std::string FlagSources::OriginOf(const std::string& message) const {
  const auto found = origins_.find(message.substr(0, message.find_first_of(": ")));
  return found == origins_.end() ? "" : Described(found->second);
}

absl::Status FlagSources::Add(const std::string& name, const std::vector<std::string>& values,
                              FlagOrigin origin) {
  const std::string flag = absl::StrCat("--", name);
  if (options_.at(name)->get_items_expected_max() == 0 &&
      (values.size() != 1 || !IsTruth(values[0]))) {
    return absl::InvalidArgumentError(absl::StrCat(Described(origin), ": ", flag, " is ",
                                                   Quoted(absl::StrJoin(values, ",")),
                                                   ": use true or false"));
  }
  origins_[flag] = std::move(origin);
  for (const std::string& value : values) AppendFlag(flag, value, arguments_);
  return absl::OkStatus();
}

// A variable that is nearly one of ours was meant to be it. Others may belong to anybody:
// Kubernetes makes TIDEGATE_PORT and more of the names of services.
absl::Status FlagSources::RefuseMisspelledVariables() const {
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

absl::StatusOr<const CLI::Option*> FlagSources::KnownOption(const std::string& name,
                                                            const std::string& where) const {
  const auto found = options_.find(name);
  if (found != options_.end() && IsSetting(name)) return found->second;
  std::vector<std::string> known;
  for (const auto& [other, unused] : options_) {
    if (IsSetting(other)) known.push_back(other);
  }
  const std::string nearest = NearestName(name, known);
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": ", Quoted(name), " is not known",
                   nearest.empty() ? absl::StrCat("; ", app_.get_name(), " --help lists what is")
                                   : absl::StrCat("; did you mean ", nearest, "?")));
}

// What --config names, for which the environment has had its say.
std::string FlagSources::ConfigPath() const {
  for (size_t i = 0; i < arguments_.size(); ++i) {
    if (arguments_[i] == "--config" && i + 1 < arguments_.size()) return arguments_[i + 1];
    if (absl::StartsWith(arguments_[i], "--config=")) return arguments_[i].substr(9);
  }
  return "";
}

}  // namespace tidegate
