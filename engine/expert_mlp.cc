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
  for (const ExpertShare& share : shares) {
    const MlpExpert expert = {share.expert, &share.weight};
    RETURN_IF_ERROR(step == nullptr
                        ? mlp_->Dense(layer, x, precision, y, accounts, expert)
                        : mlp_->Pruned(layer, x, *step, precision, y, accounts, expert));
  }
  return absl::OkStatus();
}

void ExpertMlp::GatherTokens(uint32_t expert) {
  tokens_.clear();
  weights_.clear();
  for (uint32_t t = 0; t < shared_weights_.size(); ++t) {
    for (const ExpertShare& share : shares_[t]) {
      if (share.expert != expert) continue;
      tokens_.push_back(t);
      weights_.push_back(share.weight);
    }
  }
}

absl::Status ExpertMlp::Tokens(uint32_t layer, const float* x, uint32_t tokens, Precision precision,
                               float* y, PassAccounts& accounts) {
  const ModelConfig& c = model_->config;
  const size_t h = c.hidden_size;
  Route(layer, x, tokens);
  for (uint32_t e = 0; e < c.expert_count; ++e) {
    GatherTokens(e);
    if (tokens_.empty()) continue;
    x_.resize(std::max(x_.size(), tokens_.size() * h));
    y_.assign(tokens_.size() * h, 0.0f);
    for (size_t i = 0; i < tokens_.size(); ++i) {
      std::copy_n(x + tokens_[i] * h, h, x_.begin() + static_cast<ptrdiff_t>(i * h));
    }
    RETURN_IF_ERROR(mlp_->DenseTokens(layer, x_.data(), static_cast<uint32_t>(tokens_.size()),
                                      precision, y_.data(), accounts, {e, weights_.data()}));
    for (size_t i = 0; i < tokens_.size(); ++i) {
      kernels_->add(y_.data() + i * h, h, y + tokens_[i] * h);
    }
  }
  for (uint32_t e = c.expert_count; e < c.expert_slots(); ++e) {
    RETURN_IF_ERROR(
        mlp_->DenseTokens(layer, x, tokens, precision, y, accounts, {e, shared_weights_.data()}));
  }
  return absl::OkStatus();
}

}  // namespace tidegate
