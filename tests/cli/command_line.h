// Runs a subcommand inside the test, as main() would, and shows what its --help says. One thread.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cli/commands.h"

namespace tidegate {

using AddCommand = std::function<void(CLI::App&, CommandRun&)>;  // such as AddPackCommand

// `arguments` after the program's name. A mistake in them is INVALID_ARGUMENT; --help is OK.
absl::Status RunCommand(const AddCommand& add, std::vector<std::string> arguments);

// The same; `out`, which may be null, receives standard output, and standard error is dropped.
absl::Status RunCommand(const AddCommand& add, std::vector<std::string> arguments,
                        std::string* out);

struct CommandFacts {
  std::string name, help;
  std::map<std::string, std::string> defaults;  // as help shows them, by "--name"; "" is none
};
CommandFacts FactsOf(const AddCommand& add);

// Gives each flag the default that help shows for it, and reads the default again: flag -> what is
// wrong. Sets `seen` to the number of defaults.
std::map<std::string, std::string> DefaultsNotTaken(const AddCommand& add, size_t& seen);

}  // namespace tidegate
