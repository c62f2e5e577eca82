// Runs a subcommand inside the test, as main() would.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "cli/commands.h"

namespace tidegate {

// `arguments` after the program's name. A mistake in them is INVALID_ARGUMENT; --help is OK.
inline absl::Status RunCommand(const std::function<void(CLI::App&, CommandRun&)>& add,
                               std::vector<std::string> arguments) {
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

// The same; `out`, which may be null, receives standard output, and standard error is dropped.
inline absl::Status RunCommand(const std::function<void(CLI::App&, CommandRun&)>& add,
                               std::vector<std::string> arguments, std::string* out) {
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  const absl::Status status = RunCommand(add, std::move(arguments));
  std::fflush(stdout);
  const std::string printed = ::testing::internal::GetCapturedStdout();
  if (out != nullptr) *out = printed;
  ::testing::internal::GetCapturedStderr();
  return status;
}

}  // namespace tidegate
