// Where the flags of a program come from: arguments of the command line, and behind them what
// environment and file add; what one source gives, the weaker ones do not (base/flags.h). It also
// remembers who gave what. Thread-compatible.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace tidegate {

enum class FlagSource { kUnset, kDefault, kFile, kEnvironment, kFlag };

// "default", "file", ...
const char* FlagSourceName(FlagSource source);

struct FlagOrigin {
  FlagSource source = FlagSource::kFlag;
  std::string where;  // "TIDEGATE_LISTEN", or "tidegate.conf, line 3"; "" for a flag
};

// Adds "--name=value" to a command line; of an empty value two arguments, because CLI11 would take
// what follows "--name=" for the value.
void AppendFlag(const std::string& flag, const std::string& value,
                std::vector<std::string>& arguments);

class FlagSources {
 public:
  // `app` has all its flags and outlives this. `arguments` are without the program's name.
  FlagSources(const CLI::App& app, std::vector<std::string> arguments);

  // INVALID_ARGUMENT: a value of a form that its flag cannot have, or a name that is nearly one.
  absl::Status TakeEnvironment();
  // What --config names, if it was given. Errors of reading it besides.
  absl::Status TakeFile();

  // All of it as one command line.
  const std::vector<std::string>& arguments() const { return arguments_; }
  // By "--name"; what is missing was given on the command line or not at all.
  const std::map<std::string, FlagOrigin>& origins() const { return origins_; }
  // Of the flag that a message begins with, for people; "" for the command line.
  std::string OriginOf(const std::string& message) const;

 private:
  absl::Status Add(const std::string& name, const std::vector<std::string>& values,
                   FlagOrigin origin);
  absl::Status RefuseMisspelledVariables() const;
  absl::StatusOr<const CLI::Option*> KnownOption(const std::string& name,
                                                 const std::string& where) const;
  std::string ConfigPath() const;

  const CLI::App& app_;
  std::map<std::string, const CLI::Option*> options_;  // by their first long names
  std::map<std::string, FlagOrigin> origins_;
  std::vector<std::string> arguments_;
};

}  // namespace tidegate
