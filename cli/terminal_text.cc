#include "cli/terminal_text.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/text.h"

namespace tidegate {

bool OutputIsTerminal() { return ::isatty(STDOUT_FILENO) != 0; }

std::string ForTerminal(std::string_view text) {
  return PrintableLines(text, /*max_bytes=*/std::string::npos);
}

std::string ForOutput(std::string_view text) {
  return OutputIsTerminal() ? ForTerminal(text) : std::string(text);
}

std::string JsonForOutput(const nlohmann::ordered_json& json, int indent) {
  return json.dump(indent, ' ', OutputIsTerminal(), nlohmann::json::error_handler_t::replace);
}

}  // namespace tidegate
