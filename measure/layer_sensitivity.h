// How much the predictions of a model change when one layer at a time is pruned as plain DIP does.
// Owned by one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "measure/evaluation.h"
#include "measure/layer_densities.h"

namespace tidegate {

// By layer, fitted over three densities to the mean divergence (Kullback-Leibler, nats per token)
// from the unpruned model's predictions over the task's chunks. Whole chunks run at once, so that
// weights are read once for many tokens; memory: the logits of one chunk. on_tokens: called with
// the tokens run so far, of LayerTokens() in all; fails the run if it fails.
absl::StatusOr<std::vector<LayerCost>> MeasureLayers(
    LocalModel& local, const EvalTask& task,
    const std::function<absl::Status(uint64_t)>& on_tokens);
uint64_t LayerTokens(const ModelConfig& config, const EvalTask& task);

}  // namespace tidegate
