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

void ExpertMlp::Route(uint32_t layer, const float* x, uint32_t tokens) {
  const ModelConfig& c = model_->config;
  const LayerWeights& w = model_->layers[layer];
  shares_.resize(std::max<size_t>(shares_.size(), tokens));
  shared_weights_.assign(tokens, 1.0f);
  logits_.resize(size_t{tokens} * c.expert_count);
  const size_t touched = size_t{tokens} * c.expert_count * w.router.row_bytes;
  pool_->For(tokens, 1, touched, [&](size_t begin, size_t end) {
    for (size_t t = begin; t < end; ++t) {
      const float* row = x + t * c.hidden_size;
      float* logits = logits_.data() + t * c.expert_count;
      kernels_->mat_vec(w.router, 0, c.expert_count, row, logits);
      ChooseExperts({logits, c.expert_count}, c.experts_used, c.normalise_expert_weights,
                    shares_[t]);
      if (w.shared_gate != nullptr) {
        shared_weights_[t] = SharedWeight(w.shared_gate, row, c.hidden_size);
      }
    }
  });
}

absl::Status ExpertMlp::Step(uint32_t layer, const float* x, const PruneStep* step,
                             Precision precision, float* y, PassAccounts& accounts) {
  const ModelConfig& c = model_->config;
  Route(layer, x, 1);
  std::vector<ExpertShare>& shares = shares_[0];
  for (uint32_t e = 0; e < c.shared_experts; ++e) {
    shares.push_back({c.expert_count + e, shared_weights_[0]});
  }
  for (size_t i = 0; i < shares.size(); ++i) {
    MlpExpert expert = {.index = shares[i].expert, .weights = &shares[i].weight, .next = {}};
    if (i + 1 < shares.size()) expert.next = shares[i + 1].expert;
    RETURN_IF_ERROR(step == nullptr
                        ? mlp_->Dense(layer, x, precision, y, accounts, expert)
                        : mlp_->Pruned(layer, x, *step, precision, y, accounts, expert));
  }
  return absl::OkStatus();
}

// Lists the tokens of every expert, so that each is read once for all of them.
void ExpertMlp::GatherTokens(uint32_t tokens) {
  uses_.resize(model_->config.expert_count);
  for (Uses& uses : uses_) {
    uses.tokens.clear();
    uses.weights.clear();
  }
  for (uint32_t t = 0; t < tokens; ++t) {
    for (const ExpertShare& share : shares_[t]) {
      uses_[share.expert].tokens.push_back(t);
      uses_[share.expert].weights.push_back(share.weight);
    }
  }
}

absl::Status ExpertMlp::Tokens(uint32_t layer, const float* x, uint32_t tokens, Precision precision,
                               float* y, PassAccounts& accounts) {
  const ModelConfig& c = model_->config;
  Route(layer, x, tokens);
  GatherTokens(tokens);
  in_use_.clear();
  for (uint32_t e = 0; e < c.expert_slots(); ++e) {
    if (e >= c.expert_count || !uses_[e].tokens.empty()) in_use_.push_back(e);
  }
  for (size_t i = 0; i < in_use_.size(); ++i) {
    MlpExpert expert = {.index = in_use_[i], .weights = shared_weights_.data(), .next = {}};
    if (i + 1 < in_use_.size()) expert.next = in_use_[i + 1];
    if (expert.index < c.expert_count) {
      RETURN_IF_ERROR(SomeTokens(layer, x, expert, precision, y, accounts));
    } else {
      RETURN_IF_ERROR(mlp_->DenseTokens(layer, x, tokens, precision, y, accounts, expert));
    }
  }
  return absl::OkStatus();
}

absl::Status ExpertMlp::SomeTokens(uint32_t layer, const float* x, MlpExpert expert,
                                   Precision precision, float* y, PassAccounts& accounts) {
  const size_t h = model_->config.hidden_size;
  const Uses& uses = uses_[expert.index];
  const size_t count = uses.tokens.size();
  x_.resize(std::max(x_.size(), count * h));
  y_.assign(count * h, 0.0f);
  for (size_t i = 0; i < count; ++i) {
    std::copy_n(x + uses.tokens[i] * h, h, x_.begin() + static_cast<ptrdiff_t>(i * h));
  }
  expert.weights = uses.weights.data();
  RETURN_IF_ERROR(mlp_->DenseTokens(layer, x_.data(), static_cast<uint32_t>(count), precision,
                                    y_.data(), accounts, expert));
  for (size_t i = 0; i < count; ++i) {
    kernels_->add(y_.data() + i * h, h, y + uses.tokens[i] * h);
  }
  return absl::OkStatus();
}

}  // namespace tidegate
