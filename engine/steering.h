// What requests use that leave density and gamma to the server: a point of a profile's ladder,
// chosen once by an allowed loss of accuracy, or moved along the ladder for a rate of tokens.
// Made for one attached model. Owned by the decode thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine_options.h"
#include "engine/engine_stats.h"
#include "engine/ladder_controller.h"
#include "engine/mlp.h"
#include "engine/model.h"
#include "proto/store/v1/profile.pb.h"

namespace tidegate {

// An operating point in units of one model.
struct LadderPoint {
  uint32_t index = 0;        // in the profile's ladder
  double density = 1;        // 1: nothing is pruned
  double least_density = 1;  // of a layer
  double gamma = 1;
  double protected_share = 0;
  double perplexity_increase = 0;  // as measured; a share
  double flash_bytes_per_token = 0;
  KeptCounts kept;                 // units per layer, on average
  std::vector<KeptCounts> layers;  // by layer; empty: `kept` everywhere

  bool dense() const { return density >= 1; }
  // REQUIRES: !dense(). Points into this.
  RowPruning Pruning(double gamma_now) const;
};

// The points of a checked profile (proto/store/v1/profile.h) of this model.
std::vector<LadderPoint> LadderOf(const store::v1::Profile& profile, const ModelConfig& config);

class Steering {
 public:
  // The ladder's part inside the server's bounds, with every layer's density at least the least
  // that is allowed, and the allowed loss. FAILED_PRECONDITION says what leaves nothing of it.
  // REQUIRES: options.wanted().
  static absl::StatusOr<Steering> Create(const SteeringOptions& options,
                                         const PruningBounds& bounds,
                                         std::vector<LadderPoint> ladder);

  // A token of every stream took so long, together. Logs when the target turns out to be out of
  // reach, and when it no longer is.
  void OnRound(double seconds);

  const LadderPoint& point() const {
    return controller_ ? ladder_[controller_->point()] : ladder_.back();
  }
  SteeringStats stats() const;

 private:
  Steering(const SteeringOptions& options, std::vector<LadderPoint> ladder);
  void LogReach() const;

  SteeringOptions options_;
  std::vector<LadderPoint> ladder_;
  std::optional<LadderController> controller_;  // with a target
};

// With the profile that was given or else the pack's own. None if it is not wanted. Errors say what
// is wrong with the profile, or that there is none. Warns where cache, units or LoRA adapters are
// others than the profile's.
absl::StatusOr<std::optional<Steering>> SteeringFor(const EngineOptions& options,
                                                    const std::optional<store::v1::Profile>& given,
                                                    const WeightClient& client,
                                                    const ModelConfig& config);

}  // namespace tidegate
