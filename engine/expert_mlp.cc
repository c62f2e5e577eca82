#include "engine/expert_mlp.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/status_macros.h"

namespace tidegate {
namespace {

// w . x, in double: one gate decides over a whole expert.
float SharedWeight(const float* gate, const float* x, size_t n) {
  const double z = std::inner_product(gate, gate + n, x, 0.0);
  return static_cast<float>(1 / (1 + std::exp(-z)));
}

}  // namespace

void ChooseExperts(std::span<const float> logits, uint32_t used, bool normalise,
                   std::vector<ExpertShare>& shares) {
  shares.clear();
  // A NaN must not reach an ordering.
  const auto value = [](float logit) { return logit == logit ? logit : -INFINITY; };
  double largest = -INFINITY;
  for (const float logit : logits) largest = std::max<double>(largest, value(logit));
  double total = 0;
  for (uint32_t e = 0; e < logits.size(); ++e) {
    const double weight = std::exp(value(logits[e]) - largest);
    shares.push_back({e, static_cast<float>(weight)});
    total += weight;
  }
  const auto chosen_end = shares.begin() + static_cast<ptrdiff_t>(used);
  std::partial_sort(shares.begin(), chosen_end, shares.end(), [&](auto a, auto b) {
    const float x = value(logits[a.expert]), y = value(logits[b.expert]);
    return x != y ? x > y : a.expert < b.expert;
  });
  shares.resize(used);
  double chosen = 0;
  for (const ExpertShare& share : shares) chosen += share.weight;
  const double sum = normalise ? chosen : total;
  for (ExpertShare& share : shares) share.weight = static_cast<float>(share.weight / sum);
  std::sort(shares.begin(), shares.end(), [](auto a, auto b) { return a.expert < b.expert; });
}

ExpertMlp::ExpertMlp(const Model* model, Mlp* mlp, ThreadPool* pool)
    : model_(model), mlp_(mlp), pool_(pool), kernels_(&BestKernels(Precision::kExact)) {}

void ExpertMlp::RouteRow(uint32_t layer, const float* x, float* logits,
                         std::vector<ExpertShare>& shares) {
  const ModelConfig& c = model_->config;
  const LayerWeights& w = model_->layers[layer];
  kernels_->mat_vec(w.router, 0, c.expert_count, x, logits);
  ChooseExperts({logits, c.expert_count}, c.experts_used, c.normalise_expert_weights, shares);
  const float weight = w.shared_gate == nullptr || c.shared_experts == 0
                           ? 1.0f
                           : SharedWeight(w.shared_gate, x, c.hidden_size);
  for (uint32_t e = 0; e < c.shared_experts; ++e) shares.push_back({c.expert_count + e, weight});
}

void ExpertMlp::Route(uint32_t layer, std::span<const MlpRows> rows) {
  const ModelConfig& c = model_->config;
  row_count_ = 0;
  for (const MlpRows& group : rows) {
    const size_t first = row_count_;
    row_count_ += group.count;
    shares_.resize(std::max(shares_.size(), row_count_));
    logits_.resize(std::max(logits_.size(), row_count_ * c.expert_count));
    const size_t touched =
        size_t{group.count} * c.expert_count * model_->layers[layer].router.row_bytes;
    pool_->For(group.count, 1, touched, [&](size_t begin, size_t end) {
      for (size_t r = begin; r < end; ++r) {
        RouteRow(layer, group.x + r * c.hidden_size, logits_.data() + (first + r) * c.expert_count,
                 shares_[first + r]);
      }
    });
  }
}

void ExpertMlp::ListExperts() {
  std::vector<bool> used(model_->config.expert_slots());
  for (const std::vector<ExpertShare>& shares : std::span(shares_).first(row_count_)) {
    for (const ExpertShare& share : shares) used[share.expert] = true;
  }
  experts_.clear();
  for (uint32_t e = 0; e < used.size(); ++e) {
    if (used[e]) experts_.push_back(e);
  }
}

// Outputs of prompt rows begin at 0 and are added afterwards, which is one rounding; sums of decode
// rows go on from the row's output.
void ExpertMlp::Gather(uint32_t expert, std::span<const MlpRows> rows, std::vector<Uses>& uses,
                       std::vector<MlpRows>& groups) {
  const size_t h = model_->config.hidden_size;
  uses.resize(rows.size());
  groups.clear();
  size_t row = 0;
  for (size_t g = 0; g < rows.size(); ++g) {
    const MlpRows& group = rows[g];
    Uses& own = uses[g];
    own.rows.clear();
    own.weights.clear();
    own.x.clear();
    own.y.clear();
    own.sequences.clear();
    own.prune.clear();
    for (uint32_t r = 0; r < group.count; ++r, ++row) {
      for (const ExpertShare& share : shares_[row]) {
        if (share.expert != expert) continue;
        const float* const y = group.y + r * h;
        own.rows.push_back(r);
        own.weights.push_back(share.weight);
        own.x.insert(own.x.end(), group.x + r * h, group.x + (r + 1) * h);
        own.y.insert(own.y.end(), y, y + h);
        own.sequences.push_back(group.sequences[r]);
        if (!group.prune.empty()) own.prune.push_back(group.prune[r]);
      }
    }
    if (own.rows.empty()) continue;
    if (group.form == RowForm::kPrompt && expert < model_->config.expert_count) {
      std::ranges::fill(own.y, 0.0f);
    }
    groups.push_back({.form = group.form,
                      .precision = group.precision,
                      .count = static_cast<uint32_t>(own.rows.size()),
                      .x = own.x.data(),
                      .y = own.y.data(),
                      .weights = own.weights.data(),
                      .sequences = own.sequences,
                      .prune = own.prune});
  }
}

void ExpertMlp::Scatter(uint32_t expert, std::span<const MlpRows> rows) {
  const size_t h = model_->config.hidden_size;
  for (size_t g = 0; g < rows.size(); ++g) {
    const bool add = rows[g].form == RowForm::kPrompt && expert < model_->config.expert_count;
    for (size_t i = 0; i < uses_[g].rows.size(); ++i) {
      const float* const from = uses_[g].y.data() + i * h;
      float* const to = rows[g].y + uses_[g].rows[i] * h;
      if (add) {
        kernels_->add(from, h, to);
      } else {
        std::copy_n(from, h, to);
      }
    }
  }
}

absl::Status ExpertMlp::Run(uint32_t layer, std::span<const MlpRows> rows, StepCost& cost) {
  Route(layer, rows);
  ListExperts();
  for (size_t i = 0; i < experts_.size(); ++i) {
    MlpAhead ahead = {.layer = layer};
    if (i + 1 < experts_.size()) {
      ahead.expert = experts_[i + 1];
      Gather(ahead.expert, rows, next_uses_, next_groups_);
      ahead.users = Mlp::UsersOfAll(next_groups_);
    }
    Gather(experts_[i], rows, uses_, groups_);
    RETURN_IF_ERROR(mlp_->Run(layer, groups_, cost, ahead, experts_[i]));
    Scatter(experts_[i], rows);
  }
  return absl::OkStatus();
}

}  // namespace tidegate
