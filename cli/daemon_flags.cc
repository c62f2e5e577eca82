#include "cli/daemon_flags.h"

#include <optional>
#include <set>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "base/flag_sources.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

const std::set<std::string>& Reserved() {
  static const std::set<std::string>& names = *new std::set<std::string>{
      "help",        "version",        "config",      "pack",
      "socket",      "memory-budget",  "listen",      "store-socket",
      "port-file",   "metrics-listen", "log-level",   "metrics-port-file",
      "log-format",  "print-config",   "http-listen", "http-port-file",
      "local-socket"};
  return names;
}

void AddFlags(CLI::App& command, const CLI::App& daemon, std::vector<std::string>& given) {
  for (const CLI::Option* option : daemon.get_options()) {
    if (option->get_lnames().empty()) continue;
    const std::string& name = option->get_lnames().front();
    const std::string flag = absl::StrCat("--", name);
    if (Reserved().contains(name) || command.get_option_no_throw(flag) != nullptr) continue;
    constexpr const char* kHidden = "";  // a group without a name
    const std::string& help = option->get_description();
    if (option->get_items_expected_max() == 0) {
      command
          .add_flag_callback(
              flag, [&given, flag] { given.push_back(flag); }, help)
          ->envname(option->get_envname())
          ->group(kHidden);
      continue;
    }
    CLI::Option* added = command.add_option_function<std::vector<std::string>>(
        flag,
        [&given, flag](const std::vector<std::string>& values) {
          for (const std::string& value : values) {
            AppendFlag(flag, value, given);
          }
        },
        help);
    added
        ->allow_extra_args(false)  // the next word is not one of its values
        ->type_name(option->get_type_name())
        ->default_str(option->get_default_str())
        ->envname(option->get_envname())
        ->group(kHidden);
    if (option->get_items_expected_max() == 1) added->expected(1);
  }
}

template <typename Config, typename Parse>
absl::Status ParseWith(const std::vector<std::string>& arguments, Parse parse, Config& config) {
  std::vector<const char*> argv;
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  const std::optional<int> code = parse(static_cast<int>(argv.size()), argv.data(), config);
  if (!code) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("this is what ", arguments[0], " says of its flags or environment"));
}

}  // namespace

void AddDaemonFlags(CLI::App& command, DaemonFlags& flags) {
  // Only their names and forms are read.
  StoreConfig store_config;
  CLI::App store;
  AddStoreFlags(store, store_config);
  AddFlags(command, store, flags.store);
  ServerConfig engine_config;
  CLI::App engine;
  AddServerFlags(engine, engine_config);
  AddFlags(command, engine, flags.engine);
}

absl::Status ParseArguments(const std::vector<std::string>& arguments, StoreConfig& config) {
  return ParseWith(arguments, ParseStoreConfig, config);
}

absl::Status ParseArguments(const std::vector<std::string>& arguments, ServerConfig& config) {
  RETURN_IF_ERROR(ParseWith(arguments, ParseServerConfig, config));
  return ValidateServerConfig(config);
}

}  // namespace tidegate
