// Flags of tidegate-store and tidegate-engine on the command line of another command: whoever knows
// the daemons' flags need not learn others. Names and forms come from the daemons' own definitions;
// values are checked by them. Main thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/config.h"
#include "weightstore/store_config.h"

namespace CLI {
class App;
}

namespace tidegate {

// As they were given: "--name=value", or "--name" for a flag without a value; of an empty value two
// arguments.
struct DaemonFlags {
  std::vector<std::string> store, engine;
};

// Adds to `command` the flags of both daemons but for those that it has already, and those that tie
// the two together (pack, budget, sockets, addresses, port files, logs) and are the command's
// own business. They are not shown by its help. `flags` must outlive `command`.
void AddDaemonFlags(CLI::App& command, DaemonFlags& flags);

// What a daemon makes of its arguments (the path of the program first), the environment included.
// INVALID_ARGUMENT after the mistake has been explained on standard error.
absl::Status ParseArguments(const std::vector<std::string>& arguments, StoreConfig& config);
absl::Status ParseArguments(const std::vector<std::string>& arguments, ServerConfig& config);

}  // namespace tidegate
