#include "cli/command_text.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tidegate {

std::string CommandText(const CLI::App& command) {
  std::string text = absl::StrCat("tidegate ", command.get_name());
  for (const CLI::Option* option : command.get_options()) {
    if (option->count() == 0) continue;
    if (!option->get_positional()) absl::StrAppend(&text, " ", option->get_name());
    if (option->get_expected_min() > 0) {
      absl::StrAppend(&text, " ", absl::StrJoin(option->results(), ","));
    }
  }
  return text;
}

}  // namespace tidegate
