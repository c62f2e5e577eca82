// Command lines of our programs: every flag may also come from the environment or a file.
//
// Order, strongest first: command line, environment (TIDEGATE_*), file named by --config
// (base/config_file.h), default. CLI11 alone would let the file beat the environment. Names that
// nobody knows are refused wherever they stand.
// Numbers are added with the functions here and never with CLI11's add_option: its own conversions
// wrap "-1", saturate what overflows and take "010" for eight.
// CLI11 throws; ParseFlags() is where that ends. Thread-compatible.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/numbers.h"

namespace tidegate {

// Adds --config and --version to a daemon's flags.
void AddCommonFlags(CLI::App& app, const std::string& program);

// Parses. A value means that the program is to exit with it: 0 after --help or --version, else the
// mistake has been explained on standard error.
std::optional<int> ParseFlags(CLI::App& app, int argc, const char* const* argv);

// Ends an unsuccessful parse as CLI11's exit() does, but prints what the command line holds as text
// that no terminal acts upon. Gives the exit code.
int ExplainParseError(const CLI::App& app, const CLI::ParseError& error);

// A flag with a value in text form: `take` keeps it, or says what is wrong with it; the message
// becomes "--name: what is wrong". `take` must be callable as long as `app` parses.
using TakeText = std::function<absl::Status(const std::string&)>;
CLI::Option* AddTextFlag(CLI::App& app, const std::string& names, TakeText take,
                         const std::string& help);
// The same for a flag that may be repeated, or take a list separated by commas. `take` gets the
// values one by one; `clear` is called before the first, to drop a default.
CLI::Option* AddTextListFlag(CLI::App& app, const std::string& names, std::function<void()> clear,
                             TakeText take, const std::string& help);

// Numbers within a range. `set` gets the value.
CLI::Option* AddIntegerFlag(CLI::App& app, const std::string& names,
                            std::function<void(uint64_t)> set, IntegerRange range,
                            const std::string& help);
CLI::Option* AddRealFlag(CLI::App& app, const std::string& names, std::function<void(double)> set,
                         RealRange range, const std::string& help);

// The same into a variable, which is the default and the result; it must outlive `app`.
template <typename T>
requires std::is_unsigned_v<T> CLI::Option* AddIntegerFlag(CLI::App& app, const std::string& names,
                                                           T& value, IntegerRange range,
                                                           const std::string& help) {
  range.high = std::min<uint64_t>(range.high, std::numeric_limits<T>::max());
  return AddIntegerFlag(
             app, names, [&value](uint64_t v) { value = static_cast<T>(v); }, range, help)
      ->default_str(absl::StrCat(value));
}
template <typename T>
requires std::is_floating_point_v<T> CLI::Option* AddRealFlag(CLI::App& app,
                                                              const std::string& names, T& value,
                                                              RealRange range,
                                                              const std::string& help) {
  return AddRealFlag(
             app, names, [&value](double v) { value = static_cast<T>(v); }, range, help)
      ->default_str(absl::StrCat(value));
}
CLI::Option* AddRealFlag(CLI::App& app, const std::string& names, std::optional<double>& value,
                         RealRange range, const std::string& help);
CLI::Option* AddRealListFlag(CLI::App& app, const std::string& names, std::vector<double>& values,
                             RealRange range, const std::string& help);

// Flags in text form, see base/units.h: "2GiB", "120s", "debug". `value` is the default and the
// result; it must outlive `app`.
CLI::Option* AddBytesFlag(CLI::App& app, const std::string& names, uint64_t& value,
                          const std::string& help);
CLI::Option* AddDurationFlag(CLI::App& app, const std::string& names,
                             std::chrono::nanoseconds& value, const std::string& help);
CLI::Option* AddLogLevelFlag(CLI::App& app, LogLevel& value);

// Addresses as base/listen_address.h reads them, checked at once; the text stays as it is. With
// `off` the word "off" is taken too and leaves `value` empty.
CLI::Option* AddAddressFlag(CLI::App& app, const std::string& names, std::string& value,
                            const std::string& help, bool off = false);
// The path of a Unix socket, of at most `max_bytes` bytes.
CLI::Option* AddSocketFlag(CLI::App& app, const std::string& names, std::string& value,
                           size_t max_bytes, const std::string& help);

}  // namespace tidegate
