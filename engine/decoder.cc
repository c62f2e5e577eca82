#include "engine/decoder.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/status_macros.h"
#include "proto/store/v1/static_rows.h"

namespace tidegate {
namespace {

constexpr size_t kRowGranule = 8;  // matrix rows per thread come in these

}  // namespace

Decoder::Decoder(const Model* model, WeightClient* client, const Kernels* kernels, ThreadPool* pool,
                 uint32_t tokens_max, bool overlap)
    : model_(model),
      client_(client),
      kernels_(kernels),
      pool_(pool),
      tokens_max_(tokens_max),
      mlp_(model, client, kernels, pool, tokens_max, overlap) {
  const ModelConfig& c = model->config;
  x_.resize(size_t{tokens_max} * c.hidden_size);
  normed_.resize(x_.size());
  query_.resize(size_t{tokens_max} * c.query_size());
  attended_.resize(query_.size());
  key_.resize(size_t{tokens_max} * c.kv_size());
  value_.resize(key_.size());
}

void Decoder::Embed(std::span<const TokenId> tokens) {
  const MatrixView& embedding = model_->embedding;
  for (size_t t = 0; t < tokens.size(); ++t) {
    CHECK(tokens[t] >= 0 && static_cast<size_t>(tokens[t]) < embedding.rows);
    DecodeStaticRow(embedding.type, embedding.Row(static_cast<size_t>(tokens[t])),
                    embedding.columns, x_.data() + t * embedding.columns);
  }
}

void Decoder::Norm(const float* weight, uint32_t tokens) {
  const size_t h = model_->config.hidden_size;
  for (uint32_t t = 0; t < tokens; ++t) {
    kernels_->rms_norm(x_.data() + t * h, weight, h, model_->config.rms_epsilon,
                       normed_.data() + t * h);
  }
}

void Decoder::Project(const MatrixView& w, const float* x, size_t x_stride, uint32_t tokens,
                      float* y) {
  pool_->For(w.rows, kRowGranule, w.rows * w.row_bytes * tokens, [&](size_t begin, size_t end) {
    for (uint32_t t = 0; t < tokens; ++t) {
      kernels_->mat_vec(w, begin, end, x + t * x_stride, y + t * w.rows);
    }
  });
}

void Decoder::Rotate(float* heads, uint32_t head_count, uint32_t position) const {
  const uint32_t head_size = model_->config.head_size;
  for (size_t i = 0; i < model_->rope_frequencies.size(); ++i) {
    const double angle = position * model_->rope_frequencies[i];
    const auto cosine = static_cast<float>(std::cos(angle));
    const auto sine = static_cast<float>(std::sin(angle));
    for (uint32_t head = 0; head < head_count; ++head) {
      float* pair = heads + head * head_size + 2 * i;
      const float a = pair[0], b = pair[1];
      pair[0] = a * cosine - b * sine;
      pair[1] = a * sine + b * cosine;
    }
  }
}

void Decoder::Attend(const KvCache& kv, uint32_t layer, uint32_t first_position, uint32_t tokens) {
  const ModelConfig& c = model_->config;
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_size));
  const uint32_t group = c.query_heads / c.kv_heads;
  const size_t items = size_t{tokens} * c.query_heads;
  const size_t positions_max = first_position + tokens;
  if (scores_.size() < items * positions_max) scores_.resize(items * positions_max);
  const size_t touched = items * positions_max * c.head_size * 4;
  pool_->For(items, 1, touched, [&](size_t begin, size_t end) {
    for (size_t item = begin; item < end; ++item) {
      const auto t = static_cast<uint32_t>(item / c.query_heads);
      const auto head = static_cast<uint32_t>(item % c.query_heads);
      const size_t at = item * c.head_size;
      kernels_->attend(query_.data() + at, kv.keys(layer, head / group),
                       kv.values(layer, head / group), kv.half(), c.head_size,
                       first_position + t + 1, c.head_size, scale,
                       scores_.data() + item * positions_max, attended_.data() + at);
    }
  });
}

void Decoder::Attention(KvCache& kv, uint32_t layer, uint32_t tokens) {
  const ModelConfig& c = model_->config;
  const LayerWeights& w = model_->layers[layer];
  Norm(w.attention_norm, tokens);
  Project(w.query, normed_.data(), c.hidden_size, tokens, query_.data());
  Project(w.key, normed_.data(), c.hidden_size, tokens, key_.data());
  Project(w.value, normed_.data(), c.hidden_size, tokens, value_.data());
  for (uint32_t t = 0; t < tokens; ++t) {
    const uint32_t position = kv.size() + t;
    Rotate(query_.data() + size_t{t} * c.query_size(), c.query_heads, position);
    Rotate(key_.data() + size_t{t} * c.kv_size(), c.kv_heads, position);
    kv.Store(*kernels_, layer, position, key_.data() + size_t{t} * c.kv_size(),
             value_.data() + size_t{t} * c.kv_size());
  }
  Attend(kv, layer, kv.size(), tokens);
  Project(w.output, attended_.data(), c.query_size(), tokens, normed_.data());
  kernels_->add(normed_.data(), size_t{tokens} * c.hidden_size, x_.data());
}

absl::Status Decoder::Forward(KvCache& kv, std::span<const TokenId> tokens, const PruneStep* step,
                              MlpAccounts& accounts) {
  const auto count = static_cast<uint32_t>(tokens.size());
  CHECK(count >= 1 && count <= tokens_max_ && kv.size() + count <= kv.capacity());
  Embed(tokens);
  for (uint32_t layer = 0; layer < model_->config.layer_count; ++layer) {
    Attention(kv, layer, count);
    Norm(model_->layers[layer].mlp_norm, count);
    const absl::Status done = step == nullptr
                                  ? mlp_.Dense(layer, normed_.data(), count, x_.data(), accounts)
                                  : mlp_.Pruned(layer, normed_.data(), *step, x_.data(), accounts);
    if (!done.ok()) {
      mlp_.Reset();
      return done;
    }
  }
  // A store that has died may have a successor that takes over the region and fills slots we were
  // reading: what was computed counts only if ours lived to the end.
  if (!client_->connected()) {
    mlp_.Reset();
    return absl::UnavailableError("the weight store is gone; retry when it is back");
  }
  kv.set_size(kv.size() + count);
  Norm(model_->final_norm, count);
  return absl::OkStatus();
}

void Decoder::Logits(uint32_t index, std::span<float> logits) {
  CHECK(logits.size() == model_->config.vocab_size);
  const size_t h = model_->config.hidden_size;
  Project(model_->head, normed_.data() + index * h, h, 1, logits.data());
}

absl::Status Decoder::Prefill(KvCache& kv, std::span<const TokenId> tokens, std::span<float> logits,
                              MlpAccounts& accounts, const OnLogits& on_logits) {
  const uint32_t first = kv.size();
  RETURN_IF_ERROR(Forward(kv, tokens, nullptr, accounts));
  const auto count = static_cast<uint32_t>(tokens.size());
  if (on_logits != nullptr) {
    std::vector<float> row(model_->config.vocab_size);
    for (uint32_t t = 0; t < count; ++t) {
      Logits(t, row);
      on_logits(first + t, row);
    }
  }
  if (!logits.empty()) Logits(count - 1, logits);
  return absl::OkStatus();
}

absl::Status Decoder::Step(KvCache& kv, TokenId token, const PruneStep* step,
                           std::span<float> logits, MlpAccounts& accounts) {
  RETURN_IF_ERROR(Forward(kv, {&token, 1}, step, accounts));
  if (!logits.empty()) Logits(0, logits);
  return absl::OkStatus();
}

}  // namespace tidegate
