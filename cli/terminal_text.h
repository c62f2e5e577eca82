// Text that a model or a file made, on its way to standard output: a terminal must not act upon it,
// a pipe or a file gets it as it is. Thread-safe: free functions.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace tidegate {

bool OutputIsTerminal();

// Control characters other than line feeds and tabs, and bytes that are no UTF-8, as escapes.
std::string ForTerminal(std::string_view text);

// ForTerminal() where standard output is one, else the text itself.
std::string ForOutput(std::string_view text);

// JSON for standard output, with bytes that are no UTF-8 replaced; ASCII alone on a terminal, so
// that no control character gets there.
std::string JsonForOutput(const nlohmann::ordered_json& json, int indent = 2);

}  // namespace tidegate
