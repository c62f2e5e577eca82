// Flags of tidegate-store (also TIDEGATE_* in the environment, and --config FILE). Called by
// main(), before other threads begin.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/flag_values.h"
#include "base/log.h"
#include "weightstore/store.h"

namespace CLI {
class App;
}

namespace tidegate {

struct StoreConfig {
  StoreOptions store;
  std::string region_dir = "/dev/shm";
  std::string metrics_listen = "127.0.0.1:9465";  // "": off
  std::string metrics_port_file;                  // "": none
  std::chrono::nanoseconds stop_timeout = std::chrono::seconds(10);
  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;
};

// Adds every flag to `app`, which writes into `config`: that must outlive it.
void AddStoreFlags(CLI::App& app, StoreConfig& config);

// Fills `config`, store.region_path included. A value means that the process is to exit with it
// (help, version or a mistake, which has been explained on standard error).
std::optional<int> ParseStoreConfig(int argc, const char* const* argv, StoreConfig& config);

// Fills `config` again while the process runs, from the arguments it was started with, the
// environment and the file as they are now. By anybody. INVALID_ARGUMENT says what is wrong.
absl::StatusOr<std::vector<FlagValue>> ReadStoreConfig(int argc, const char* const* argv,
                                                       StoreConfig& config);

// The region's file for a store with this socket: one name per user and socket.
std::string RegionPath(const std::string& region_dir, const std::string& socket_path);

// Creates the folder of `socket_path` with mode 0750 if it is missing.
absl::Status PrepareSocketFolder(const std::string& socket_path);

}  // namespace tidegate
