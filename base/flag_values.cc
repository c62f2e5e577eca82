#include "base/flag_values.h"

#include <algorithm>
#include <set>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/build_info_values.h"
#include "base/json_text.h"

namespace tidegate {
namespace {

FlagValue ValueOf(const CLI::Option& option, const std::map<std::string, FlagOrigin>& origins) {
  FlagValue value;
  value.name = option.get_lnames().front();
  value.variable = option.get_envname();
  const bool is_switch = option.get_items_expected_max() == 0;
  value.type = is_switch ? "BOOLEAN" : option.get_type_name();
  value.default_text = is_switch ? "false" : option.get_default_str();
  value.help = option.get_description();
  value.required = option.get_required();
  value.repeated = !is_switch && option.get_items_expected_max() > 1;
  if (option.count() > 0) {
    value.values = option.results();
    const auto found = origins.find(absl::StrCat("--", value.name));
    value.origin = found == origins.end() ? FlagOrigin() : found->second;
  } else if (!value.default_text.empty()) {
    value.values = {value.default_text};
    value.origin.source = FlagSource::kDefault;
  } else {
    value.origin.source = FlagSource::kUnset;
  }
  return value;
}

// As base/config_file.h reads it back; "" where no quotes are left for it.
std::string FileText(const std::string& text) {
  static constexpr char kPlain[] =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+=@%";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos) return text;
  if (text.find_first_of(std::string_view("\n\r\0", 3)) != std::string::npos) return "";
  for (const char* quote : {"\"", "'"}) {
    if (text.find(quote) == std::string::npos) return absl::StrCat(quote, text, quote);
  }
  return "";
}

// "listen = 127.0.0.1:1".
std::string Assignment(const FlagValue& value) {
  std::vector<std::string> texts;
  for (const std::string& text : value.values) texts.push_back(FileText(text));
  const bool list = texts.size() != 1;
  return absl::StrCat(value.name, " = ", list && !texts.empty() ? "[" : "",
                      absl::StrJoin(texts, ", "), list && !texts.empty() ? "]" : "");
}

bool CanBeWritten(const FlagValue& value) {
  return std::none_of(value.values.begin(), value.values.end(),
                      [](const std::string& text) { return FileText(text).empty(); });
}

std::string JsonOfValues(const FlagValue& value) {
  if (value.origin.source == FlagSource::kUnset) return "null";
  if (!value.repeated || value.origin.source == FlagSource::kDefault) {
    return JsonText(value.values.back());
  }
  return absl::StrCat("[",
                      absl::StrJoin(value.values, ", ",
                                    [](std::string* out, const std::string& text) {
                                      absl::StrAppend(out, JsonText(text));
                                    }),
                      "]");
}

std::string JsonOfFlag(const FlagValue& value) {
  const auto optional = [](const std::string& text) {
    return text.empty() ? std::string("null") : JsonText(text);
  };
  return absl::StrCat(
      "{\"name\": ", JsonText(value.name), ", \"value\": ", JsonOfValues(value),
      ", \"source\": ", JsonText(FlagSourceName(value.origin.source)),
      ", \"where\": ", optional(value.origin.where),
      ", \"default\": ", optional(value.default_text), ", \"variable\": ", optional(value.variable),
      ", \"type\": ", JsonText(value.type), ", \"required\": ", value.required ? "true" : "false",
      ", \"repeated\": ", value.repeated ? "true" : "false", ", \"help\": ", JsonText(value.help),
      "}");
}

}  // namespace

bool IsSetting(const std::string& name) {
  static const std::set<std::string>& commands =
      *new std::set<std::string>{"config", "help", "version", "print-config"};
  return !commands.contains(name);
}

std::vector<FlagValue> FlagValues(const CLI::App& app,
                                  const std::map<std::string, FlagOrigin>& origins) {
  std::vector<FlagValue> values;
  for (const CLI::Option* option : app.get_options()) {
    const std::vector<std::string>& names = option->get_lnames();
    if (!names.empty() && IsSetting(names.front())) values.push_back(ValueOf(*option, origins));
  }
  std::sort(values.begin(), values.end(),
            [](const FlagValue& a, const FlagValue& b) { return a.name < b.name; });
  return values;
}

std::string ConfigText(const std::string& program, const std::vector<FlagValue>& values) {
  std::string text = absl::StrCat("# Settings of ", program, " ", TIDEGATE_VERSION,
                                  ", each with its source. This is a file for --config.\n");
  for (const FlagValue& value : values) {
    const bool set = value.origin.source > FlagSource::kDefault && CanBeWritten(value);
    const char* source = value.origin.source == FlagSource::kUnset
                             ? (value.required ? "not set, required" : "not set")
                             : FlagSourceName(value.origin.source);
    absl::StrAppendFormat(&text, "%s%-50s # %s%s\n", set ? "" : "# ", Assignment(value), source,
                          value.origin.where.empty() ? "" : absl::StrCat(": ", value.origin.where));
  }
  return text;
}

std::string ConfigJson(const std::string& program, const std::vector<FlagValue>& values) {
  return absl::StrCat("{\"program\": ", JsonText(program),
                      ", \"version\": ", JsonText(TIDEGATE_VERSION), ", \"settings\": [\n  ",
                      absl::StrJoin(values, ",\n  ",
                                    [](std::string* out, const FlagValue& value) {
                                      absl::StrAppend(out, JsonOfFlag(value));
                                    }),
                      "\n]}\n");
}

std::vector<std::string> ChangedFlags(const std::vector<FlagValue>& before,
                                      const std::vector<FlagValue>& after,
                                      const std::vector<std::string>& but) {
  std::vector<std::string> changed;
  for (size_t i = 0; i < before.size() && i < after.size(); ++i) {
    if (before[i].values == after[i].values) continue;
    if (std::find(but.begin(), but.end(), before[i].name) != but.end()) continue;
    changed.push_back(before[i].name);
  }
  return changed;
}

}  // namespace tidegate
