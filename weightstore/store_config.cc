#include "weightstore/store_config.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/flags.h"
#include "base/status_macros.h"
#include "base/units.h"
#include "proto/store/v1/defaults.h"
#include "proto/store/v1/pack_format.h"
#include "weightstore/admin_service.h"

namespace tidegate {
namespace {

constexpr char kFooter[] = R"(
The budget covers static weights, cache slots, staging, tables and the KV cache, LoRA adapters and
activations of one engine (--engine-reserve); not the programs' own code and heap, and of
activations not the first 24 MiB.
Every flag may also be set by the environment variable shown, or in the --config file; the
command line wins, then the environment, then the file.

Examples:
  tidegate-store --pack model.tgpack --memory-budget 8GiB
  tidegate-store --pack model.tgpack --memory-budget 2GiB --flash-model bandwidth=1GB/s,latency=80us
)";

// Of the socket's path in the region's name, whose hash tells longer ones apart: a name has at most
// 255 bytes.
constexpr size_t kMaxRegionNameBytes = 160;

void AddMemoryFlags(CLI::App& app, StoreConfig& config) {
  StoreOptions& store = config.store;
  AddTextFlag(app, "--pack", store.pack_path, "Pack to serve, made by 'tidegate pack'")
      .Required()
      .Variable("TIDEGATE_PACK");
  AddBytesFlag(app, "--memory-budget", store.memory_budget_bytes,
               "Memory for weights and KV cache, for example 8GiB")
      .Required()
      .Variable("TIDEGATE_MEMORY_BUDGET");
  AddTextFlag(
      app, "--engine-reserve",
      [&store](const std::string& text) {
        ASSIGN_OR_RETURN(store.engine_reserve_bytes, ParseBytes(text));
        return absl::OkStatus();
      },
      absl::StrCat(
          "Part of the budget left to the engine, for its KV cache, the adapters of its --lora and "
          "its activations beyond 24 MiB; default: the KV cache of one context, the model's own "
          "but at most ",
          kDefaultContextTokens, " tokens, and the activations that it goes with"))
      .Type("BYTES")
      .Variable("TIDEGATE_ENGINE_RESERVE");
  AddBytesFlag(app, "--staging", store.staging_bytes,
               "Buffer of one lease for layers in passing; default: chosen from the budget")
      .Variable("TIDEGATE_STAGING");
  AddChoiceFlag(app, "--policy", store.policy, {"value", "lfu", "lru", "none"},
                "What the cache keeps: value, lfu, lru, none")
      .Variable("TIDEGATE_POLICY");
  AddRealFlag(app, "--input-share", store.input_share, {0, 1},
              "Part of the cache's bytes for input units, [0, 1]; default: what the pack's "
              "profile says, else every kind has the same part of its units cached")
      .Variable("TIDEGATE_INPUT_SHARE");
  AddTextFlag(app, "--region-dir", config.region_dir,
              "Folder on tmpfs for the shared region; only this process opens it")
      .Variable("TIDEGATE_REGION_DIR");
  AddSwitch(app, "--keep-region", store.keep_region,
            "Leave the region when stopping, so that the next start is warm")
      .Variable("TIDEGATE_KEEP_REGION");
}

void AddFlashFlags(CLI::App& app, StoreOptions& store) {
  AddChoiceFlag(app, "--flash-backend", store.flash_backend, {"auto", "io_uring", "pread"},
                "How the pack is read: auto (io_uring, else pread), io_uring, pread")
      .Variable("TIDEGATE_FLASH_BACKEND");
  AddSwitch(
      app, "--require-io-uring", [&store] { store.flash_backend = "io_uring"; },
      "Fail at start instead of falling back to pread; same as --flash-backend io_uring")
      .Variable("TIDEGATE_REQUIRE_IO_URING");
  AddTextFlag(
      app, "--flash-model",
      [&store](const std::string& text) {
        ASSIGN_OR_RETURN(store.flash_model, ParseFlashModel(text));
        return absl::OkStatus();
      },
      "Behave like a given device, for repeatable experiments: "
      "bandwidth=1GB/s,latency=80us,iops=200k; stall-after=5k,stall=3s for one that hangs")
      .Type("MODEL")
      .Variable("TIDEGATE_FLASH_MODEL");
  AddIntegerFlag(app, "--queue-depth", store.queue_depth, {1, 4096}, "Reads in flight at most")
      .Variable("TIDEGATE_QUEUE_DEPTH");
  AddSwitch(
      app, "--no-verify", [&store] { store.verify_checksums = false; },
      "Do not check blocks against their checksums: damaged weights go unnoticed")
      .Variable("TIDEGATE_NO_VERIFY");
}

void AddServiceFlags(CLI::App& app, StoreConfig& config) {
  StoreOptions& store = config.store;
  AddSocketFlag(app, "--socket", config.store.socket_path, AdminServer::kMaxAttachSocketBytes,
                "Unix socket where engines attach; WeightStoreService listens on <socket>.grpc")
      .Variable("TIDEGATE_STORE_SOCKET");
  AddTextListFlag(
      app, "--allow-uid", [&store] { store.allowed_uids.clear(); },
      [&store](const std::string& text) {
        // The highest number means "no user" to the kernel.
        ASSIGN_OR_RETURN(const uint64_t uid, ParseInteger(text, {0, 4294967294}));
        store.allowed_uids.push_back(static_cast<uint32_t>(uid));
        return absl::OkStatus();
      },
      "User id that may attach besides root and this process's; may be repeated")
      .Type("UID")
      .Variable("TIDEGATE_ALLOW_UID");
  AddAddressFlag(app, "--metrics-listen", config.metrics_listen,
                 "Address of Prometheus metrics over HTTP: HOST:PORT (port 0 takes a free one) or "
                 "unix:PATH; off: none",
                 /*off=*/true)
      .Variable("TIDEGATE_STORE_METRICS_LISTEN");
  AddTextFlag(app, "--metrics-port-file", config.metrics_port_file,
              "File to write the port of --metrics-listen into")
      .Variable("TIDEGATE_STORE_METRICS_PORT_FILE");
  AddDurationFlag(app, "--stop-timeout", config.stop_timeout,
                  "After SIGTERM, time for reads that are out to come back; then the process ends "
                  "without them, with exit code 3")
      .Variable("TIDEGATE_STOP_TIMEOUT");
  AddLogLevelFlag(app, config.log_level);
  AddLogFormatFlag(app, config.log_format);
}

}  // namespace

void AddStoreFlags(CLI::App& app, StoreConfig& config) {
  AddCommonFlags(app, "tidegate-store");
  AddMemoryFlags(app, config);
  AddFlashFlags(app, config.store);
  AddServiceFlags(app, config);
}

namespace {

std::shared_ptr<CLI::App> MakeStoreProgram(StoreConfig& config) {
  if (config.store.socket_path.empty()) config.store.socket_path = "/run/tidegate/store.sock";
  const std::shared_ptr<CLI::App> app = MakeProgram(
      "Keeps a model's weights on flash, and those in use in memory that engines share.", kFooter);
  AddStoreFlags(*app, config);
  return app;
}

}  // namespace

std::optional<int> ParseStoreConfig(int argc, const char* const* argv, StoreConfig& config) {
  const std::optional<int> exit_code = ParseFlags(*MakeStoreProgram(config), argc, argv);
  config.store.region_path = RegionPath(config.region_dir, config.store.socket_path);
  return exit_code;
}

absl::StatusOr<std::vector<FlagValue>> ReadStoreConfig(int argc, const char* const* argv,
                                                       StoreConfig& config) {
  ASSIGN_OR_RETURN(std::vector<FlagValue> values, ReadFlags(*MakeStoreProgram(config), argc, argv));
  config.store.region_path = RegionPath(config.region_dir, config.store.socket_path);
  return values;
}

std::string RegionPath(const std::string& region_dir, const std::string& socket_path) {
  std::error_code ignored;
  std::string name = std::filesystem::absolute(socket_path, ignored).lexically_normal().string();
  const uint64_t whole = Checksum(name.data(), name.size());  // "/a_b" and "/a/b" read alike.
  std::replace(name.begin(), name.end(), '/', '_');
  name = name.substr(name.size() - std::min(name.size(), kMaxRegionNameBytes));
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
