#include "base/flags.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/build_info_values.h"
#include "base/units.h"

namespace tidegate {
namespace {

bool Mentions(const std::vector<std::string>& arguments, const std::string& long_name) {
  const std::string flag = "--" + long_name;
  return std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
    return argument == flag || argument.rfind(flag + "=", 0) == 0;
  });
}

// CLI11 reports a bad value by exception.
[[noreturn]] void Reject(const absl::Status& status) {
  throw CLI::ValidationError(std::string(status.message()));
}

}  // namespace

void AddCommonFlags(CLI::App& app, const std::string& program) {
  app.name(program);
  app.set_version_flag("--version",
                       absl::StrCat(program, " ", TIDEGATE_VERSION, " (", TIDEGATE_REVISION, ")"));
  app.set_config("--config", "", "File of \"name = value\" lines, names as the flags'")
      ->envname("TIDEGATE_CONFIG");
}

std::vector<std::string> WithEnvironment(const CLI::App& app, std::vector<std::string> arguments) {
  const std::vector<std::string> given = arguments;
  for (const CLI::Option* option : app.get_options()) {
    const char* value =
        option->get_envname().empty() ? nullptr : std::getenv(option->get_envname().c_str());
    const std::vector<std::string>& names = option->get_lnames();
    if (value == nullptr || *value == '\0' || names.empty()) continue;
    if (std::any_of(names.begin(), names.end(),
                    [&](const std::string& name) { return Mentions(given, name); })) {
      continue;
    }
    arguments.push_back(absl::StrCat("--", names.front(), "=", value));
  }
  return arguments;
}

std::optional<int> ParseFlags(CLI::App& app, int argc, const char* const* argv) {
  std::vector<std::string> arguments =
      WithEnvironment(app, std::vector<std::string>(argv + 1, argv + argc));
  std::reverse(arguments.begin(), arguments.end());  // the order that CLI11 takes them in
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  return std::nullopt;
}

CLI::Option* AddBytesFlag(CLI::App& app, const std::string& names, uint64_t& value,
                          const std::string& help) {
  return app
      .add_option_function<std::string>(
          names,
          [&value](const std::string& text) {
            absl::StatusOr<uint64_t> bytes = ParseBytes(text);
            if (!bytes.ok()) Reject(bytes.status());
            value = *bytes;
          },
          help)
      ->type_name("BYTES");
}

CLI::Option* AddDurationFlag(CLI::App& app, const std::string& names,
                             std::chrono::nanoseconds& value, const std::string& help) {
  return app
      .add_option_function<std::string>(
          names,
          [&value](const std::string& text) {
            absl::StatusOr<std::chrono::nanoseconds> duration = ParseDuration(text);
            if (!duration.ok()) Reject(duration.status());
            value = *duration;
          },
          help)
      ->type_name("TIME");
}

CLI::Option* AddLogLevelFlag(CLI::App& app, LogLevel& value) {
  static const std::vector<std::pair<std::string, LogLevel>> kLevels = {
      {"debug", LogLevel::kDebug},
      {"info", LogLevel::kInfo},
      {"warning", LogLevel::kWarning},
      {"error", LogLevel::kError}};
  return app
      .add_option_function<std::string>(
          "--log-level",
          [&value](const std::string& text) {
            for (const auto& [name, level] : kLevels) {
              if (name == text) {
                value = level;
                return;
              }
            }
            Reject(absl::InvalidArgumentError(
                absl::StrCat("--log-level ", text, ": use debug, info, warning or error")));
          },
          "Lowest level logged: debug, info, warning, error")
      ->type_name("LEVEL")
      ->default_str("info")
      ->envname("TIDEGATE_LOG_LEVEL");
}

}  // namespace tidegate
