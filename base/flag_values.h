// The settings of a program as --print-config shows them: values, where they come from, and what
// there is to know of each flag. Plain data and pure functions.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/flag_sources.h"

namespace tidegate {

inline constexpr char kPrintConfigFlag[] = "--print-config";

// One flag.
struct FlagValue {
  std::string name;                 // without dashes
  std::vector<std::string> values;  // as they were written; the default's text where none was
  FlagOrigin origin;                // FlagSource::kUnset: no value and no default
  std::string variable;             // of the environment; "": none
  std::string type;                 // as --help shows it; "BOOLEAN" for a switch
  std::string default_text;
  std::string help;
  bool required = false;
  bool repeated = false;  // may have several values
};

// Whether a flag of this name is a setting, and not a command as --help is one.
bool IsSetting(const std::string& name);

// Of every setting of `app`, which has been parsed, by name.
std::vector<FlagValue> FlagValues(const CLI::App& app,
                                  const std::map<std::string, FlagOrigin>& origins);

// A file for --config that gives the same settings; defaults stand in it as comments.
std::string ConfigText(const std::string& program, const std::vector<FlagValue>& values);

// {"program", "version", "settings": [{"name", "value", "source", "where", "default", "variable",
// "type", "required", "repeated", "help"}]}: "value" is a text, a list of texts where the flag may
// be repeated, or null.
std::string ConfigJson(const std::string& program, const std::vector<FlagValue>& values);

// Names of what differs between two readings of one program's settings, without those in `but`.
std::vector<std::string> ChangedFlags(const std::vector<FlagValue>& before,
                                      const std::vector<FlagValue>& after,
                                      const std::vector<std::string>& but);

}  // namespace tidegate
