// Flags that the commands with a model inside the process share: how to pack, where to read, how to
// prune. Plain data; CLI11 writes into it while main() parses the command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/generation.h"
#include "engine/kernels/kv_type.h"
#include "engine/kernels/precision.h"
#include "measure/local_model.h"

namespace CLI {
class App;
}

namespace tidegate {

struct ModelFlags {
  std::string model;
  std::string units;  // empty: q8 for what is packed, a pack's own
  std::string mode = "dense";
  double density = 1.0;
  double gamma = 1.0;
  uint32_t fixed_top_n = 0;
  double protected_share = kProtectedShare;
  std::string policy = "value";
  std::optional<double> input_share;
  double cache_fraction = 1.0;
  std::string flash_backend = "auto";
  std::string flash_model;
  std::string kv = "f32";
  std::string precision = "fast";  // as the service; what proves something is "exact"
  uint32_t prefill_chunk = 256;
  uint32_t threads = 0;
  std::vector<std::string> lora;  // FILE=SCALE

  // Adds MODEL and the flags to a subcommand; RegisterWithoutPoint() leaves out mode, density,
  // gamma and cache fraction, for a command that takes lists of them.
  void Register(CLI::App& command);
  void RegisterWithoutPoint(CLI::App& command);
  void RegisterDensityAndGamma(CLI::App& command);
  // Leaves out everything about masks too.
  void RegisterWithoutPruning(CLI::App& command);

  absl::StatusOr<LocalModelOptions> LocalOptions() const;
  // Empty in mode dense. Errors name the flag and its range.
  absl::StatusOr<std::optional<RowPruning>> Pruning(const ModelConfig& config) const;
  absl::StatusOr<KvType> ParsedKvType() const;
  absl::StatusOr<Precision> ParsedPrecision() const;
};

}  // namespace tidegate
