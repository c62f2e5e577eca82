// Measures ways to prune with the store and the engine: every point on the same tokens, from an
// empty cache. Owned by one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/progress.h"
#include "measure/evaluation.h"
#include "measure/local_model.h"
#include "measure/operating_points.h"
#include "proto/store/v1/profile.pb.h"

namespace tidegate {

// Tokens that candidates are compared on, and others that have no say in what is chosen.
struct ProfileTasks {
  EvalTask search, final;
};

// The first whole chunks of the text for the search, at most half of them; those behind for the
// final numbers. INVALID_ARGUMENT: fewer than four chunks. `tokens` is referred to. REQUIRES: at
// least a chunk of both.
absl::StatusOr<ProfileTasks> SplitTokens(const std::vector<TokenId>& tokens, uint32_t chunk,
                                         uint64_t search_tokens, uint64_t final_tokens);

// Ids of the model's vocabulary, chunks within its context.
absl::Status CheckTasks(const ProfileTasks& tasks, const store::v1::HyperParameters& hp);

class PointMeter {
 public:
  // Packs the model unless it is a pack. options.store says how much memory every point has.
  static absl::StatusOr<PointMeter> Create(const LocalModelOptions& options);

  // Shows progress over so many tokens. Not owned.
  void Plan(Progress* progress, uint64_t tokens);
  void Skip(uint64_t tokens);  // of the plan, not needed

  // From here on points are measured on `task`, a reference kept; measures it without pruning.
  absl::Status Begin(const EvalTask& task);
  absl::StatusOr<MeasuredPoint> Measure(const Candidate& candidate);
  // Lossless streaming with the same memory, as the start of `task` is decoded with it.
  absl::StatusOr<MeasuredPoint> MeasureDense(const EvalTask& task);

  // How the slots are divided from here on; unset: evenly (StoreOptions::input_share).
  void UseInputShare(std::optional<double> share);

  absl::StatusOr<std::unique_ptr<LocalModel>> Open() const;
  // Version, model and what is known of the conditions.
  store::v1::Profile ProfileHead() const;

 private:
  PointMeter() = default;
  // Tokens of Begin() at a point.
  absl::StatusOr<EvalResult> Run(const Candidate& candidate);
  void Show(uint64_t done);

  LocalModelOptions options_;
  std::shared_ptr<const PackedModel> packed_;
  store::v1::Profile head_;
  uint64_t streamed_bytes_ = 0;
  ModelConfig config_;
  const EvalTask* task_ = nullptr;
  double dense_nll_ = 0;
  Progress* progress_ = nullptr;
  uint64_t done_ = 0, planned_ = 0;
};

}  // namespace tidegate
