#include "weightstore/store_config.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/flags.h"
#include "base/units.h"
#include "proto/store/v1/pack_format.h"

namespace tidegate {
namespace {

constexpr char kFooter[] = R"(
The budget covers static weights, cache slots, staging, tables and the KV cache and LoRA adapters
of one engine (--engine-reserve); not the programs' own code and heap, nor the engine's activations.
Every flag may also be set by the environment variable shown, or in the --config file; the
command line wins, then the environment, then the file.

Examples:
  tidegate-store --pack model.tgpack --memory-budget 8GiB
  tidegate-store --pack model.tgpack --memory-budget 2GiB --flash-model bandwidth=1GB/s,latency=80us
)";

void AddMemoryFlags(CLI::App& app, StoreConfig& config) {
  StoreOptions& store = config.store;
  app.add_option("--pack", store.pack_path, "Pack to serve, made by 'tidegate pack'")
      ->required()
      ->envname("TIDEGATE_PACK");
  AddBytesFlag(app, "--memory-budget", store.memory_budget_bytes,
               "Memory for weights and KV cache, for example 8GiB")
      ->required()
      ->envname("TIDEGATE_MEMORY_BUDGET");
  app.add_option_function<std::string>(
         "--engine-reserve",
         [&store](const std::string& text) {
           const absl::StatusOr<uint64_t> bytes = ParseBytes(text);
           if (!bytes.ok()) throw CLI::ValidationError(std::string(bytes.status().message()));
           store.engine_reserve_bytes = *bytes;
         },
         "Part of the budget left to the engine, for its KV cache and the adapters of its --lora; "
         "default: one KV cache of the trained context")
      ->type_name("BYTES")
      ->envname("TIDEGATE_ENGINE_RESERVE");
  AddBytesFlag(app, "--staging", store.staging_bytes,
               "Buffer of one lease for layers in passing; default: chosen from the budget")
      ->envname("TIDEGATE_STAGING");
  app.add_option("--policy", store.policy, "What the cache keeps: value, lfu, lru, none")
      ->check(CLI::IsMember({"value", "lfu", "lru", "none"}))
      ->capture_default_str()
      ->envname("TIDEGATE_POLICY");
  app.add_option("--input-share", store.input_share,
                 "Part of the cache's bytes for input units, [0, 1]; default: what the pack's "
                 "profile says, else every kind has the same part of its units cached")
      ->check(CLI::Range(0.0, 1.0))
      ->envname("TIDEGATE_INPUT_SHARE");
  app.add_option("--region-dir", config.region_dir,
                 "Folder on tmpfs for the shared region; only this process opens it")
      ->capture_default_str()
      ->envname("TIDEGATE_REGION_DIR");
  app.add_flag("--keep-region", store.keep_region,
               "Leave the region when stopping, so that the next start is warm")
      ->envname("TIDEGATE_KEEP_REGION");
}

void AddFlashFlags(CLI::App& app, StoreOptions& store) {
  app.add_option("--flash-backend", store.flash_backend,
                 "How the pack is read: auto (io_uring, else pread), io_uring, pread")
      ->check(CLI::IsMember({"auto", "io_uring", "pread"}))
      ->capture_default_str()
      ->envname("TIDEGATE_FLASH_BACKEND");
  app.add_flag_callback(
         "--require-io-uring", [&store] { store.flash_backend = "io_uring"; },
         "Fail at start instead of falling back to pread; same as --flash-backend io_uring")
      ->envname("TIDEGATE_REQUIRE_IO_URING");
  app.add_option_function<std::string>(
         "--flash-model",
         [&store](const std::string& text) {
           const absl::StatusOr<FlashModel> model = ParseFlashModel(text);
           if (!model.ok()) throw CLI::ValidationError(std::string(model.status().message()));
           store.flash_model = *model;
         },
         "Behave like a given device, for repeatable experiments: "
         "bandwidth=1GB/s,latency=80us,iops=200k")
      ->type_name("MODEL")
      ->envname("TIDEGATE_FLASH_MODEL");
  app.add_option("--queue-depth", store.queue_depth, "Reads in flight at most")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str()
      ->envname("TIDEGATE_QUEUE_DEPTH");
  app.add_flag_callback(
         "--no-verify", [&store] { store.verify_checksums = false; },
         "Do not check blocks against their checksums: damaged weights go unnoticed")
      ->envname("TIDEGATE_NO_VERIFY");
}

void AddServiceFlags(CLI::App& app, StoreConfig& config) {
  app.add_option("--socket", config.store.socket_path,
                 "Unix socket where engines attach; WeightStoreService listens on <socket>.grpc")
      ->capture_default_str()
      ->envname("TIDEGATE_STORE_SOCKET");
  app.add_option("--allow-uid", config.store.allowed_uids,
                 "User id that may attach besides root and this process's; may be repeated")
      ->delimiter(',')
      ->envname("TIDEGATE_ALLOW_UID");
  app.add_option("--metrics-listen", config.metrics_listen,
                 "Address of Prometheus metrics over HTTP: HOST:PORT (port 0 takes a free one) or "
                 "unix:PATH; off: none")
      ->capture_default_str()
      ->envname("TIDEGATE_STORE_METRICS_LISTEN");
  app.add_option("--metrics-port-file", config.metrics_port_file,
                 "File to write the port of --metrics-listen into")
      ->envname("TIDEGATE_STORE_METRICS_PORT_FILE");
  AddLogLevelFlag(app, config.log_level);
}

}  // namespace

std::optional<int> ParseStoreConfig(int argc, const char* const* argv, StoreConfig& config) {
  if (config.store.socket_path.empty()) config.store.socket_path = "/run/tidegate/store.sock";
  CLI::App app{"Keeps a model's weights on flash, and those in use in memory that engines share."};
  app.footer(kFooter);
  AddCommonFlags(app, "tidegate-store");
  AddMemoryFlags(app, config);
  AddFlashFlags(app, config.store);
  AddServiceFlags(app, config);
  const std::optional<int> exit_code = ParseFlags(app, argc, argv);
  if (config.metrics_listen == "off") config.metrics_listen.clear();
  config.store.region_path = RegionPath(config.region_dir, config.store.socket_path);
  return exit_code;
}

std::string RegionPath(const std::string& region_dir, const std::string& socket_path) {
  std::error_code ignored;
  std::string name = std::filesystem::absolute(socket_path, ignored).lexically_normal().string();
  const uint64_t whole = Checksum(name.data(), name.size());  // "/a_b" and "/a/b" read alike.
  std::replace(name.begin(), name.end(), '/', '_');
  return absl::StrCat(region_dir, "/tidegate-", getuid(), name, "-",
                      absl::Hex(whole, absl::kZeroPad16), ".region");
}

absl::Status PrepareSocketFolder(const std::string& socket_path) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::absolute(socket_path).parent_path();
  std::error_code error;
  if (fs::exists(folder, error)) return absl::OkStatus();
  fs::create_directories(folder, error);
  if (!error) {
    fs::permissions(folder, fs::perms::owner_all | fs::perms::group_read | fs::perms::group_exec,
                    error);
  }
  if (!error) return absl::OkStatus();
  return absl::ErrnoToStatus(
      error.value(), absl::StrCat("cannot create ", folder.string(),
                                  " for the socket; create it, or choose another --socket"));
}

}  // namespace tidegate
