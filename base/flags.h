// Command lines of our programs: every flag may also come from the environment or a file.
//
// Order, strongest first: command line, environment (TIDEGATE_*), file named by --config
// (base/config_file.h), default. CLI11 alone would let the file beat the environment. Names that
// nobody knows are refused wherever they stand.
// Numbers are added with the functions here and never with CLI11's add_option: its own conversions
// wrap "-1", saturate what overflows and take "010" for eight.
// CLI11 throws; ParseFlags() is where that ends. Its header is large and compiles slowly: who adds
// flags needs this one alone, and passes CLI::App on by reference. Thread-compatible.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/flag_values.h"
#include "base/log.h"
#include "base/numbers.h"

namespace CLI {
class App;
class Option;
class ParseError;
}  // namespace CLI

namespace tidegate {

// A flag that was added, to say more of it. Copies mean the same flag; none outlives its command.
class Flag {
 public:
  explicit Flag(CLI::Option& option) : option_(&option) {}

  // What --help shows as its value, such as FILE, and as its default.
  Flag Type(const std::string& name) const;
  Flag Default(const std::string& text) const;
  // An environment variable that may give it.
  Flag Variable(const std::string& name) const;
  Flag Required() const;
  // The two are not given together.
  Flag Excludes(const Flag& other) const;

 private:
  CLI::Option* option_;
};

// The command line of a program: what it does, and what --help ends with.
std::shared_ptr<CLI::App> MakeProgram(const std::string& about, const std::string& footer);

// A subcommand, which `app` owns. `chosen` is called when the user has named it.
CLI::App& AddSubcommand(CLI::App& app, const std::string& name, const std::string& about,
                        const std::string& footer, std::function<void(const CLI::App&)> chosen);

// Adds --config and --print-config, which ParseFlags() and ParseProgram() answer.
void AddConfigFlags(CLI::App& app);
// The same and --version to a daemon's flags.
void AddCommonFlags(CLI::App& app, const std::string& program);

// Parses. A value means that the program is to exit with it: 0 after --help, --version or
// --print-config, else the mistake has been explained on standard error.
std::optional<int> ParseFlags(CLI::App& app, int argc, const char* const* argv);

// The same for a program with subcommands, of which the first argument names one: where that has
// AddConfigFlags(), its flags come from all sources, else from the command line and the
// environment.
std::optional<int> ParseProgram(CLI::App& app, int argc, const char* const* argv);

// ParseFlags() without a word, for a program that runs and reads its settings again.
// INVALID_ARGUMENT says what ParseFlags() would explain.
absl::StatusOr<std::vector<FlagValue>> ReadFlags(CLI::App& app, int argc, const char* const* argv);

// Ends an unsuccessful parse as CLI11's exit() does, but prints what the command line holds as text
// that no terminal acts upon. Gives the exit code.
int ExplainParseError(const CLI::App& app, const CLI::ParseError& error);

// A flag without a value.
Flag AddSwitch(CLI::App& app, const std::string& names, bool& value, const std::string& help);
Flag AddSwitch(CLI::App& app, const std::string& names, std::function<void()> set,
               const std::string& help);

// Text as it is. `value` is the default, which --help shows, and the result; it must outlive `app`.
// A name without dashes is that of an argument.
Flag AddTextFlag(CLI::App& app, const std::string& names, std::string& value,
                 const std::string& help);
// The name of a file or folder. An empty one is refused: it would mean "not given".
Flag AddFileFlag(CLI::App& app, const std::string& names, std::string& value,
                 const std::string& help);
// One of the words, or a list of them separated by commas.
Flag AddChoiceFlag(CLI::App& app, const std::string& names, std::string& value,
                   const std::vector<std::string>& words, const std::string& help);
Flag AddChoiceListFlag(CLI::App& app, const std::string& names, std::vector<std::string>& values,
                       const std::vector<std::string>& words, const std::string& help);
// Texts of a flag that may be repeated; a comma does not separate.
Flag AddRepeatedFlag(CLI::App& app, const std::string& names,
                     std::function<void(const std::vector<std::string>&)> set,
                     const std::string& help);

// A flag with a value in text form: `take` keeps it, or says what is wrong with it; the message
// becomes "--name: what is wrong". `take` must be callable as long as `app` parses.
using TakeText = std::function<absl::Status(const std::string&)>;
Flag AddTextFlag(CLI::App& app, const std::string& names, TakeText take, const std::string& help);
// The same for a flag that may be repeated, or take a list separated by commas. `take` gets the
// values one by one; `clear` is called before the first, to drop a default.
Flag AddTextListFlag(CLI::App& app, const std::string& names, std::function<void()> clear,
                     TakeText take, const std::string& help);

// Numbers within a range. `set` gets the value.
Flag AddIntegerFlag(CLI::App& app, const std::string& names, std::function<void(uint64_t)> set,
                    IntegerRange range, const std::string& help);
Flag AddRealFlag(CLI::App& app, const std::string& names, std::function<void(double)> set,
                 RealRange range, const std::string& help);

// The same into a variable, which is the default and the result; it must outlive `app`.
template <typename T>
requires std::is_unsigned_v<T> Flag AddIntegerFlag(CLI::App& app, const std::string& names,
                                                   T& value, IntegerRange range,
                                                   const std::string& help) {
  range.high = std::min<uint64_t>(range.high, std::numeric_limits<T>::max());
  return AddIntegerFlag(
             app, names, [&value](uint64_t v) { value = static_cast<T>(v); }, range, help)
      .Default(absl::StrCat(value));
}
template <typename T>
requires std::is_floating_point_v<T> Flag AddRealFlag(CLI::App& app, const std::string& names,
                                                      T& value, RealRange range,
                                                      const std::string& help) {
  return AddRealFlag(
             app, names, [&value](double v) { value = static_cast<T>(v); }, range, help)
      .Default(absl::StrCat(value));
}
Flag AddRealFlag(CLI::App& app, const std::string& names, std::optional<double>& value,
                 RealRange range, const std::string& help);
Flag AddRealListFlag(CLI::App& app, const std::string& names, std::vector<double>& values,
                     RealRange range, const std::string& help);

// Flags in text form, see base/units.h: "2GiB", "120s", "debug". `value` is the default and the
// result; it must outlive `app`.
Flag AddBytesFlag(CLI::App& app, const std::string& names, uint64_t& value,
                  const std::string& help);
Flag AddDurationFlag(CLI::App& app, const std::string& names, std::chrono::nanoseconds& value,
                     const std::string& help);
Flag AddLogLevelFlag(CLI::App& app, LogLevel& value);
Flag AddLogFormatFlag(CLI::App& app, LogFormat& value);

// Addresses as base/listen_address.h reads them, checked at once; the text stays as it is. With
// `off` the word "off" is taken too and leaves `value` empty.
Flag AddAddressFlag(CLI::App& app, const std::string& names, std::string& value,
                    const std::string& help, bool off = false);
// The path of a Unix socket, of at most `max_bytes` bytes.
Flag AddSocketFlag(CLI::App& app, const std::string& names, std::string& value, size_t max_bytes,
                   const std::string& help);

}  // namespace tidegate
