// Command lines of our programs: every flag may also come from the environment or a file.
//
// Order, strongest first: command line, environment (TIDEGATE_*), file named by --config ("name =
// value" lines), default. CLI11 alone would let the file beat the environment.
// CLI11 throws; ParseFlags() is where that ends. Thread-compatible.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "base/log.h"

namespace tidegate {

// Adds --config and --version to a daemon's flags.
void AddCommonFlags(CLI::App& app, const std::string& program);

// Parses. A value means that the program is to exit with it: 0 after --help or --version, else the
// mistake has been explained on standard error.
std::optional<int> ParseFlags(CLI::App& app, int argc, const char* const* argv);

// Arguments with "--name=value" added for options whose environment variable is set and that the
// command line does not mention.
std::vector<std::string> WithEnvironment(const CLI::App& app, std::vector<std::string> arguments);

// Flags in text form, see base/units.h: "2GiB", "120s", "debug". `value` is the default and the
// result; it must outlive `app`.
CLI::Option* AddBytesFlag(CLI::App& app, const std::string& names, uint64_t& value,
                          const std::string& help);
CLI::Option* AddDurationFlag(CLI::App& app, const std::string& names,
                             std::chrono::nanoseconds& value, const std::string& help);
CLI::Option* AddLogLevelFlag(CLI::App& app, LogLevel& value);

}  // namespace tidegate
