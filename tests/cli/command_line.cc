#include "tests/cli/command_line.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"

namespace tidegate {
namespace {

// Empty if CLI11 takes them.
std::string Complaint(CLI::App& app, const std::vector<std::string>& arguments) {
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

absl::Status RunCommand(const AddCommand& add, std::vector<std::string> arguments) {
  CLI::App app;
  CommandRun run;
  add(app, run);
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? absl::OkStatus() : absl::InvalidArgumentError(error.what());
  }
  return run();
}

absl::Status RunCommand(const AddCommand& add, std::vector<std::string> arguments,
                        std::string* out) {
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const absl::Status status = RunCommand(add, std::move(arguments));
  std::fflush(stdout);
  const std::string printed = ::testing::internal::GetCapturedStdout();
  if (out != nullptr) *out = printed;
  ::testing::internal::GetCapturedStderr();
  return status;
}

CommandFacts FactsOf(const AddCommand& add) {
  CLI::App app;
  CommandRun run;
  add(app, run);
  const CLI::App& command = *app.get_subcommands([](CLI::App*) { return true; }).at(0);
  CommandFacts facts = {command.get_name(), command.help(), {}};
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_lnames().empty()) continue;
    facts.defaults["--" + option->get_lnames().front()] = option->get_default_str();
  }
  return facts;
}

std::map<std::string, std::string> DefaultsNotTaken(const AddCommand& add, size_t& seen) {
  CLI::App app;
  CommandRun run;
  add(app, run);
  CLI::App& command = *app.get_subcommands({}).front();
  std::map<std::string, std::string> wrong;
  for (CLI::Option* option : command.get_options()) option->required(false);
  for (CLI::Option* option : command.get_options()) {
    const std::string value = option->get_default_str();
    if (value.empty() || option->get_lnames().empty()) continue;
    const std::string flag = absl::StrCat("--", option->get_lnames().front());
    std::string text = value;
    if (text.front() == '[') text = text.substr(1, text.size() - 2);  // a list
    std::string complaint = Complaint(app, {command.get_name(), absl::StrCat(flag, "=", text)});
    option->capture_default_str();
    if (complaint.empty() && option->get_default_str() != value) {
      complaint = absl::StrCat("became ", option->get_default_str());
    }
    if (!complaint.empty()) wrong[flag] = complaint;
    ++seen;
  }
  return wrong;
}

}  // namespace tidegate
