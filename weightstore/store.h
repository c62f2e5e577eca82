// The weight store: owns a pack, a memory budget, the shared region, the flash device and every
// change to the cache. Engines attach through a Unix socket and work through leases (shm_layout.h).
//
// Threads: one store thread owns cache, ring and device; one attach thread accepts engines. stats()
// may be read by anybody. Start() and Stop() belong to one owner.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weightstore/io/flash_device.h"
#include "weightstore/store_stats.h"

namespace tidegate {

struct StoreOptions {
  std::string pack_path;
  std::string socket_path;           // attach socket; its folder must exist
  std::string region_path;           // a file on tmpfs; created with mode 0600
  uint64_t memory_budget_bytes = 0;  // static weights, slots, staging, tables, engine reserve
  std::optional<uint64_t> engine_reserve_bytes;  // unset: DefaultEngineReserve()
  uint64_t staging_bytes = 0;                    // per lease; 0: chosen from the budget
  std::string policy = "value";                  // value, lfu, lru, none
  std::optional<double> cache_fraction;  // tests and eval: slots per (layer, kind) = floor(f *
                                         // units), whatever the budget
  std::optional<double> input_share;     // see BudgetRequest; unset: the profile's, else evenly
  bool follow_profile = true;            // of the pack, with a budget
  uint32_t queue_depth = 256;
  std::string flash_backend = "auto";  // auto, io_uring, pread
  std::optional<FlashModel> flash_model;
  bool verify_checksums = true;
  std::vector<uint32_t> allowed_uids;  // besides the store's own user and root
  bool keep_region = false;            // Stop() leaves the region behind for a warm restart
};

// What does not change while the store runs.
struct StoreInfo {
  std::string pack_uuid;
  std::string model_name;
  std::string architecture;
  std::string unit_encoding;
  std::string policy;
  FlashInfo flash;
  uint64_t region_bytes = 0;
  uint64_t huge_page_bytes = 0;        // of the region
  uint64_t static_bytes = 0;           // in memory
  uint64_t static_on_flash_bytes = 0;  // an embedding for which there is no room
  uint64_t slot_bytes = 0;
  uint64_t streamed_model_bytes = 0;
  uint64_t memory_budget_bytes = 0;
  uint64_t engine_reserve_bytes = 0;
  uint64_t staging_bytes = 0;  // all of it
  uint32_t slots_per_layer[2] = {0, 0};
  uint32_t blocks_per_layer[2] = {0, 0};
  uint64_t warm_blocks = 0;  // taken over from an earlier store's region
};

class Store {
 public:
  // Opens the pack, plans the budget, creates or takes over the region, loads the static weights.
  // Errors name the file or flag and the remedy: RESOURCE_EXHAUSTED when the budget is too small
  // (with the smallest that works), ALREADY_EXISTS when another store holds region or socket.
  static absl::StatusOr<std::unique_ptr<Store>> Create(const StoreOptions& options);
  ~Store();  // Stop()

  absl::Status Start();
  void Stop();

  const StoreInfo& info() const;
  const StoreStats& stats() const;

 private:
  class Impl;
  explicit Store(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tidegate
