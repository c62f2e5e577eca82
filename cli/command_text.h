// The command line that made a report, as text for it. Pure.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace tidegate {

// What was typed after the program's name, but for quotes and the order of flags.
std::string CommandText(const CLI::App& command);

}  // namespace tidegate
