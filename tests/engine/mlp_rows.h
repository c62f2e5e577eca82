// Calls of an MLP as single tests need them: rows of one form, of one sequence.
#pragma once

#include <vector>

#include "engine/expert_mlp.h"
#include "engine/mlp.h"

namespace tidegate {

// y += MLP(x), rows of one form, that all belong to sequence 0. `mlp`: an Mlp or an ExpertMlp.
template <typename AnyMlp, typename... Rest>
absl::Status RunRows(AnyMlp& mlp, uint32_t layer, RowForm form, const float* x, uint32_t count,
                     const RowPruning* prune, Precision precision, float* y, PassAccounts& accounts,
                     Rest... rest) {
  const std::vector<uint32_t> sequences(count, 0);
  const std::vector<const RowPruning*> prunes(count, prune);
  MlpRows rows = {
      .form = form, .precision = precision, .count = count, .x = x, .y = y, .sequences = sequences};
  if (form == RowForm::kDecode) rows.prune = prunes;
  StepCost cost;
  cost.sequences.resize(1);
  const absl::Status done = mlp.Run(layer, {&rows, 1}, cost, rest...);
  accounts.Add(cost.step);
  return done;
}

template <typename AnyMlp>
absl::Status Dense(AnyMlp& mlp, uint32_t layer, const float* x, Precision precision, float* y,
                   PassAccounts& accounts) {
  return RunRows(mlp, layer, RowForm::kDecode, x, 1, nullptr, precision, y, accounts);
}

template <typename AnyMlp>
absl::Status DenseTokens(AnyMlp& mlp, uint32_t layer, const float* x, uint32_t tokens,
                         Precision precision, float* y, PassAccounts& accounts) {
  return RunRows(mlp, layer, RowForm::kPrompt, x, tokens, nullptr, precision, y, accounts);
}

template <typename AnyMlp>
absl::Status Pruned(AnyMlp& mlp, uint32_t layer, const float* x, const RowPruning& prune,
                    Precision precision, float* y, PassAccounts& accounts) {
  return RunRows(mlp, layer, RowForm::kDecode, x, 1, &prune, precision, y, accounts);
}

}  // namespace tidegate
