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

Decoder::Decoder(const Model* model, WeightClient* client, ThreadPool* pool, uint32_t tokens_max,
                 bool overlap)
    : model_(model),
      client_(client),
      kernels_(&BestKernels(Precision::kExact)),
      pool_(pool),
      tokens_max_(tokens_max),
      mlp_(model, client, pool, overlap),
      matmul_(pool),
      prompt_attention_(&model->config, kernels_, pool) {
  Reserve(1);
}

void Decoder::Reserve(uint32_t tokens) {
  const ModelConfig& c = model_->config;
  const auto grow = [&](std::vector<float>& activations, size_t size) {
    if (activations.size() < tokens * size) activations = std::vector<float>(tokens * size);
  };
  grow(x_, c.hidden_size);
  grow(normed_, c.hidden_size);
  grow(query_, c.query_size());
  grow(attended_, c.query_size());
  grow(key_, c.kv_size());
  grow(value_, c.kv_size());
}

uint32_t Decoder::PieceTokens(size_t left) const {
  const size_t pieces = std::max<size_t>(1, (left + tokens_max_ - 1) / tokens_max_);
  return static_cast<uint32_t>((left + pieces - 1) / pieces);
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

void Decoder::Project(std::span<const Projection> projections, const float* x, uint32_t tokens,
                      const Pass& pass) {
  if (pass.prefill) {
    const size_t depth = projections[0].w->columns;
    matmul_.Pack(pass.precision, {.data = x, .stride = depth, .depth = depth, .tokens = tokens});
    for (const auto& [w, y] : projections) matmul_.MultiplyRows(*w, y);
    return;
  }
  const Kernels& kernels = BestKernels(pass.precision);
  for (const auto& [w, y] : projections) {
    pool_->For(w->rows, kRowGranule, w->rows * w->row_bytes,
               [&](size_t begin, size_t end) { kernels.mat_vec(*w, begin, end, x, y); });
  }
}

void Decoder::PrepareRotations(uint32_t first_position, uint32_t tokens) {
  const size_t pairs = model_->rope_frequencies.size();
  rotations_.resize(tokens * pairs);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t i = 0; i < pairs; ++i) {
      const double angle = static_cast<double>(first_position + t) * model_->rope_frequencies[i];
      rotations_[t * pairs + i] = {static_cast<float>(std::cos(angle)),
                                   static_cast<float>(std::sin(angle))};
    }
  }
}

void Decoder::Rotate(float* heads, uint32_t head_count, uint32_t token) const {
  const size_t pairs = model_->rope_frequencies.size();
  const Rotation* rotations = rotations_.data() + token * pairs;
  for (uint32_t head = 0; head < head_count; ++head) {
    float* pair = heads + size_t{head} * model_->config.head_size;
    for (size_t i = 0; i < pairs; ++i, pair += 2) {
      const float a = pair[0], b = pair[1];
      pair[0] = a * rotations[i].cosine - b * rotations[i].sine;
      pair[1] = a * rotations[i].sine + b * rotations[i].cosine;
    }
  }
}

void Decoder::AttendOne(const KvCache& kv, uint32_t layer, uint32_t position) {
  const ModelConfig& c = model_->config;
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_size));
  const uint32_t group = c.query_heads / c.kv_heads;
  const size_t positions = position + 1;
  scores_.resize(c.query_heads * positions);
  const size_t touched = c.query_heads * positions * c.head_size * 4;
  pool_->For(c.query_heads, 1, touched, [&](size_t begin, size_t end) {
    for (size_t head = begin; head < end; ++head) {
      const size_t at = head * c.head_size;
      const auto kv_head = static_cast<uint32_t>(head / group);
      kernels_->attend(query_.data() + at, kv.keys(layer, kv_head), kv.values(layer, kv_head),
                       kv.half(), c.head_size, positions, c.head_size, scale,
                       scores_.data() + head * positions, attended_.data() + at);
    }
  });
}

void Decoder::Attend(const KvCache& kv, uint32_t layer, uint32_t tokens, const Pass& pass) {
  if (pass.prefill) {
    prompt_attention_.Run(kv, layer, kv.size(), tokens, query_.data(), attended_.data());
  } else {
    AttendOne(kv, layer, kv.size());
  }
}

void Decoder::Attention(KvCache& kv, uint32_t layer, uint32_t tokens, const Pass& pass,
                        StageTimes& times) {
  const ModelConfig& c = model_->config;
  const LayerWeights& w = model_->layers[layer];
  Norm(w.attention_norm, tokens);
  const Projection inputs[] = {
      {&w.query, query_.data()}, {&w.key, key_.data()}, {&w.value, value_.data()}};
  {
    const StageTimer timer(times, Stage::kProjections);
    Project(inputs, normed_.data(), tokens, pass);
  }
  for (uint32_t t = 0; t < tokens; ++t) {
    Rotate(query_.data() + size_t{t} * c.query_size(), c.query_heads, t);
    Rotate(key_.data() + size_t{t} * c.kv_size(), c.kv_heads, t);
    kv.Store(*kernels_, layer, kv.size() + t, key_.data() + size_t{t} * c.kv_size(),
             value_.data() + size_t{t} * c.kv_size());
  }
  {
    const StageTimer timer(times, Stage::kAttention);
    Attend(kv, layer, tokens, pass);
  }
  const Projection output = {&w.output, normed_.data()};
  {
    const StageTimer timer(times, Stage::kProjections);
    Project({&output, 1}, attended_.data(), tokens, pass);
  }
  kernels_->add(normed_.data(), size_t{tokens} * c.hidden_size, x_.data());
}

absl::Status Decoder::RunMlp(uint32_t layer, uint32_t tokens, const Pass& pass,
                             PassAccounts& accounts) {
  if (pass.prefill) {
    return mlp_.DenseTokens(layer, normed_.data(), tokens, pass.precision, x_.data(), accounts);
  }
  if (pass.step == nullptr) {
    return mlp_.Dense(layer, normed_.data(), pass.precision, x_.data(), accounts);
  }
  return mlp_.Pruned(layer, normed_.data(), *pass.step, pass.precision, x_.data(), accounts);
}

absl::Status Decoder::Forward(KvCache& kv, std::span<const TokenId> tokens, const Pass& pass,
                              PassAccounts& accounts) {
  const auto count = static_cast<uint32_t>(tokens.size());
  uint32_t rows = count;
  CHECK(count >= 1 && count <= tokens_max_ && kv.size() + count <= kv.capacity());
  const StageTimer timer(accounts.times, Stage::kOther);
  Reserve(count);
  PrepareRotations(kv.size(), count);
  Embed(tokens);
  for (uint32_t layer = 0; layer < model_->config.layer_count; ++layer) {
    Attention(kv, layer, count, pass, accounts.times);
    // Nothing looks at the other positions behind the keys and values of the last layer.
    if (layer + 1 == model_->config.layer_count && count > 1 && !pass.every_position) {
      const size_t h = model_->config.hidden_size;
      std::copy_n(x_.begin() + static_cast<ptrdiff_t>((count - 1) * h), h, x_.begin());
      rows = 1;
    }
    Norm(model_->layers[layer].mlp_norm, rows);
    const absl::Status done = RunMlp(layer, rows, pass, accounts);
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
  client_->ReportUses();
  kv.set_size(kv.size() + count);
  Norm(model_->final_norm, rows);
  return absl::OkStatus();
}

void Decoder::Logits(uint32_t index, Precision precision, std::span<float> logits,
                     StageTimes& times) {
  const StageTimer timer(times, Stage::kHead);
  CHECK(logits.size() == model_->config.vocab_size);
  const size_t h = model_->config.hidden_size;
  const Projection head = {&model_->head, logits.data()};
  Project({&head, 1}, normed_.data() + index * h, 1, {.precision = precision});
}

absl::Status Decoder::Prefill(KvCache& kv, std::span<const TokenId> tokens, Precision precision,
                              std::span<float> logits, PassAccounts& accounts,
                              const OnLogits& on_logits) {
  const uint32_t first = kv.size();
  const bool every = on_logits != nullptr;
  RETURN_IF_ERROR(Forward(
      kv, tokens, {.prefill = true, .precision = precision, .every_position = every}, accounts));
  const uint32_t rows = every ? static_cast<uint32_t>(tokens.size()) : 1;
  if (every) {
    std::vector<float> row(model_->config.vocab_size);
    for (uint32_t t = 0; t < rows; ++t) {
      Logits(t, precision, row, accounts.times);
      on_logits(first + t, row);
    }
  }
  if (!logits.empty()) Logits(rows - 1, precision, logits, accounts.times);
  return absl::OkStatus();
}

absl::Status Decoder::Step(KvCache& kv, TokenId token, const PruneStep* step, Precision precision,
                           std::span<float> logits, PassAccounts& accounts) {
  RETURN_IF_ERROR(Forward(kv, {&token, 1}, {.precision = precision, .step = step}, accounts));
  if (!logits.empty()) Logits(0, precision, logits, accounts.times);
  return absl::OkStatus();
}

}  // namespace tidegate
