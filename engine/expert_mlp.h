// A layer that is a mixture of experts: a router chooses some MLPs for each row, whose outputs are
// added by weight; shared ones are added for all. Each expert in use is read once for all rows that
// chose it. Owned by the decode thread. Source: Shazeer et al., arXiv 1701.06538; Jiang et al.,
// arXiv 2401.04088 (Mixtral); shared experts: Dai et al., arXiv 2401.06066.
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

  // y[r] += mixture(x[r]) for every row; `weights` of the groups are unused. A row's result does
  // not depend on the others, as Mlp::Run() says.
  absl::Status Run(uint32_t layer, std::span<const MlpRows> rows, StepCost& cost);

 private:
  // The rows of one group that use an expert.
  struct Uses {
    std::vector<uint32_t> rows;  // of the group, rising
    std::vector<float> weights, x, y;
    std::vector<uint32_t> sequences;
    std::vector<const RowPruning*> prune;
  };

  // shares_ of every row, the shared experts behind them.
  void Route(uint32_t layer, std::span<const MlpRows> rows);
  void RouteRow(uint32_t layer, const float* x, float* logits, std::vector<ExpertShare>& shares);
  // experts_ in use, rising.
  void ListExperts();
  // What Mlp::Run() takes of the rows that use an expert, in uses and groups.
  void Gather(uint32_t expert, std::span<const MlpRows> rows, std::vector<Uses>& uses,
              std::vector<MlpRows>& groups);
  // Adds what the expert made of them to the rows' outputs.
  void Scatter(uint32_t expert, std::span<const MlpRows> rows);

  const Model* const model_;
  Mlp* const mlp_;
  ThreadPool* const pool_;
  const Kernels* const kernels_;
  std::vector<std::vector<ExpertShare>> shares_;  // by row of the call
  size_t row_count_ = 0;
  std::vector<float> logits_;  // [rows, expert_count]
  std::vector<uint32_t> experts_;
  std::vector<Uses> uses_, next_uses_;  // by group
  std::vector<MlpRows> groups_, next_groups_;
};

}  // namespace tidegate
