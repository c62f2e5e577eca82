// A layer that is a mixture of experts: a router chooses some MLPs for each token, whose outputs
// are added by weight; shared ones are added for all. Owned by the decode thread. Source: Shazeer
// et al., arXiv 1701.06538; Jiang et al., arXiv 2401.04088 (Mixtral); shared experts: Dai et al.,
// arXiv 2401.06066.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/kernels/kernels.h"
#include "engine/mlp.h"
#include "engine/model.h"
#include "engine/thread_pool.h"

namespace tidegate {

struct ExpertShare {
  uint32_t expert = 0;
  float weight = 0;
};

// The `used` experts with the largest logits (ties: the smaller number), by rising number. Weights
// are their softmax over all logits, scaled to sum up to 1 if `normalise`. NaN counts as smallest.
void ChooseExperts(std::span<const float> logits, uint32_t used, bool normalise,
                   std::vector<ExpertShare>& shares);

class ExpertMlp {
 public:
  // Pointers are not owned and must outlive the object.
  ExpertMlp(const Model* model, Mlp* mlp, ThreadPool* pool);

  // y += mixture(x), x, y [H]; step null: dense.
  absl::Status Step(uint32_t layer, const float* x, const PruneStep* step, Precision precision,
                    float* y, PassAccounts& accounts);

  // y[t] += mixture(x[t]), x, y [tokens, H]: the form for prompts. For one token it does not depend
  // on the others, bitwise.
  absl::Status Tokens(uint32_t layer, const float* x, uint32_t tokens, Precision precision,
                      float* y, PassAccounts& accounts);

 private:
  // shares_ and shared_weights_ of every token.
  void Route(uint32_t layer, const float* x, uint32_t tokens);
  // uses_ of every expert, from shares_.
  void GatherTokens(uint32_t tokens);
  // y[t] += expert(x[t]) for the tokens that use it.
  absl::Status SomeTokens(uint32_t layer, const float* x, MlpExpert expert, Precision precision,
                          float* y, PassAccounts& accounts);

  const Model* const model_;
  Mlp* const mlp_;
  ThreadPool* const pool_;
  const Kernels* const kernels_;
  std::vector<std::vector<ExpertShare>> shares_;  // by token
  std::vector<float> shared_weights_;             // [tokens]
  std::vector<float> logits_;                     // [tokens, expert_count]
  struct Uses {
    std::vector<uint32_t> tokens;  // rising
    std::vector<float> weights;    // of the expert, by token
  };
  std::vector<Uses> uses_;        // by expert, without the shared ones
  std::vector<uint32_t> in_use_;  // experts, rising
  std::vector<float> x_, y_;      // [tokens, H] of one expert
};

}  // namespace tidegate
