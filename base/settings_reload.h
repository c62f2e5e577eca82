// The item "settings" of a daemon's Reloader: reads flags, environment and file again, takes what
// may change while the process runs (the log level), and tells of other changes that they need a
// new start. For the thread of the Reloader.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/flag_values.h"
#include "base/log.h"

namespace tidegate {

// A log line about the flags whose values are others than in `before`, but for those that were
// taken ("log-level"). Nothing where there are none.
void TellOfUntaken(const std::vector<FlagValue>& before, const std::vector<FlagValue>& after);

// `read` is the program's own (server/config.h); `argv` must outlive the result.
template <typename Config, typename Read>
std::function<absl::Status()> SettingsReload(int argc, const char* const* argv, Read read) {
  Config config;
  absl::StatusOr<std::vector<FlagValue>> first = read(argc, argv, config);
  auto before = std::make_shared<std::vector<FlagValue>>();
  if (first.ok()) *before = *std::move(first);
  return [argc, argv, read, before] {
    Config fresh;
    absl::StatusOr<std::vector<FlagValue>> values = read(argc, argv, fresh);
    if (!values.ok()) return values.status();
    SetLogLevel(fresh.log_level);
    TellOfUntaken(*before, *values);
    *before = *std::move(values);
    return absl::OkStatus();
  };
}

}  // namespace tidegate
