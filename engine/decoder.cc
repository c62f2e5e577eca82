#include "engine/decoder.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error_reason.h"
#include "base/status_macros.h"
#include "proto/gguf/finite.h"
#include "proto/store/v1/static_rows.h"

namespace tidegate {
namespace {

constexpr size_t kRowGranule = 8;  // matrix rows per thread come in these

// Packs hold finite numbers only: these have grown too large on the way.
absl::Status NotFinite(const std::string& what) {
  return WithErrorReason(
      absl::InternalError(absl::StrCat(
          what,
          ": the model's numbers grow beyond what this arithmetic holds; its weights may be "
          "damaged, or made for another precision")),
      kNumbersNotFinite);
}

absl::Status StoreGone() {
  return absl::UnavailableError("the weight store is gone; retry when it is back");
}

}  // namespace

Decoder::Decoder(const Model* model, WeightClient* client, ThreadPool* pool, uint32_t tokens_max,
                 bool overlap)
    : model_(model),
      client_(client),
      kernels_(&BestKernels(Precision::kExact)),
      pool_(pool),
      tokens_max_(tokens_max),
      mlp_(model, client, pool, overlap),
      experts_(model, &mlp_, pool),
      matmul_(pool),
      lora_(pool),
      prompt_attention_(&model->config, kernels_, pool),
      decode_attention_(&model->config, kernels_, pool) {
  Reserve(1);
}

void Decoder::Reserve(uint32_t tokens) {
  const ModelConfig& c = model_->config;
  const auto grow = [&](std::vector<float>& activations, size_t size) {
    if (activations.size() < tokens * size) activations = std::vector<float>(tokens * size);
  };
  grow(x_, c.hidden_size);
  grow(normed_, c.hidden_size);
  if (model_->layers.front().post_mlp_norm != nullptr) grow(mlp_out_, c.hidden_size);
  grow(query_, c.query_size());
  grow(attended_, c.query_size());
  grow(key_, c.kv_size());
  grow(value_, c.kv_size());
}

uint32_t Decoder::PieceTokens(size_t left) const {
  const size_t pieces = std::max<size_t>(1, (left + tokens_max_ - 1) / tokens_max_);
  return static_cast<uint32_t>((left + pieces - 1) / pieces);
}

absl::Status Decoder::Embed(std::span<const TokenId> tokens) {
  RETURN_IF_ERROR(model_->embedding.Decode(tokens, x_.data()));
  if (const float scale = model_->config.embedding_scale; scale != 1) {
    for (size_t i = 0; i < tokens.size() * model_->config.hidden_size; ++i) x_[i] *= scale;
  }
  return absl::OkStatus();
}

void Decoder::Norm(const float* weight, const float* x, uint32_t tokens, float* out) {
  const size_t h = model_->config.hidden_size;
  for (uint32_t t = 0; t < tokens; ++t) {
    kernels_->rms_norm(x + t * h, weight, h, model_->config.rms_epsilon, out + t * h);
  }
}

void Decoder::AddBias(const float* bias, size_t size, uint32_t tokens, float* y) {
  if (bias == nullptr) return;
  for (uint32_t t = 0; t < tokens; ++t) kernels_->add(bias, size, y + t * size);
}

void Decoder::Project(std::span<const Projection> projections, const float* x, uint32_t tokens,
                      const Pass& pass) {
  if (pass.prefill) {
    const size_t depth = projections[0].w->columns;
    matmul_.Pack(pass.precision, {.data = x, .stride = depth, .depth = depth, .tokens = tokens});
    for (const Projection& p : projections) matmul_.MultiplyRows(*p.w, p.y);
  } else {
    const Kernels& kernels = BestKernels(pass.precision);
    for (const Projection& p : projections) {
      pool_->For(p.w->rows, kRowGranule, p.w->rows * p.w->row_bytes,
                 [&](size_t begin, size_t end) { kernels.mat_vec(*p.w, begin, end, x, p.y); });
    }
  }
  for (const Projection& p : projections) {
    lora_.Add(*p.lora, x, tokens, pass.prefill, pass.precision, p.y);
  }
}

void Decoder::PrepareRotations(const KvCache& kv, uint32_t tokens) {
  const ModelRope& rope = model_->rope;
  rotations_.Prepare(rope.For(kv.context_tokens()), kv.size(), tokens);
  if (!rope.windowed.frequencies.empty()) {
    windowed_rotations_.Prepare(rope.windowed, kv.size(), tokens);
  }
}

const Rotations& Decoder::RotationsOf(uint32_t layer) const {
  const bool own = model_->config.windows[layer] != 0 && !model_->rope.windowed.frequencies.empty();
  return own ? windowed_rotations_ : rotations_;
}

void Decoder::PlaceHeads(const float* norm, uint32_t layer, uint32_t token, float* heads,
                         uint32_t head_count) const {
  const ModelConfig& c = model_->config;
  for (uint32_t head = 0; norm != nullptr && head < head_count; ++head) {
    float* x = heads + size_t{head} * c.head_size;
    kernels_->rms_norm(x, norm, c.head_size, c.rms_epsilon, x);
  }
  RotationsOf(layer).Rotate(c.rope_pairs, token, heads, head_count, c.head_size);
}

void Decoder::Attend(const KvCache& kv, uint32_t layer, uint32_t tokens, const Pass& pass) {
  if (pass.prefill) {
    prompt_attention_.Run(kv, layer, kv.size(), tokens, query_.data(), attended_.data());
  } else {
    const AttentionRow row = {&kv, kv.size(), query_.data(), attended_.data()};
    decode_attention_.Run(layer, {&row, 1});
  }
}

absl::Status Decoder::PrepareHeads(KvCache& kv, uint32_t layer, uint32_t tokens, const Pass& pass,
                                   StageTimes& times) {
  const ModelConfig& c = model_->config;
  const LayerWeights& w = model_->layers[layer];
  const LayerLora& lora = model_->lora.layers[layer];
  const Projection inputs[] = {{&w.query, &lora.query, query_.data()},
                               {&w.key, &lora.key, key_.data()},
                               {&w.value, &lora.value, value_.data()}};
  {
    const StageTimer timer(times, Stage::kProjections);
    Project(inputs, normed_.data(), tokens, pass);
  }
  AddBias(w.query_bias, c.query_size(), tokens, query_.data());
  AddBias(w.key_bias, c.kv_size(), tokens, key_.data());
  AddBias(w.value_bias, c.kv_size(), tokens, value_.data());
  for (uint32_t t = 0; t < tokens; ++t) {
    float* key = key_.data() + size_t{t} * c.kv_size();
    PlaceHeads(w.query_norm, layer, t, query_.data() + size_t{t} * c.query_size(), c.query_heads);
    PlaceHeads(w.key_norm, layer, t, key, c.kv_heads);
    const uint32_t position = kv.size() + t;
    if (!kv.Store(*kernels_, layer, position, key, value_.data() + size_t{t} * c.kv_size())) {
      return NotFinite(absl::StrCat("layer ", layer, ", position ", position,
                                    ": a key or value is not a finite number",
                                    kv.half() ? ", or too large for a half" : ""));
    }
  }
  return absl::OkStatus();
}

absl::Status Decoder::Attention(KvCache& kv, uint32_t layer, uint32_t tokens, const Pass& pass,
                                StageTimes& times) {
  const ModelConfig& c = model_->config;
  const LayerWeights& w = model_->layers[layer];
  Norm(w.attention_norm, x_.data(), tokens, normed_.data());
  RETURN_IF_ERROR(PrepareHeads(kv, layer, tokens, pass, times));
  {
    const StageTimer timer(times, Stage::kAttention);
    Attend(kv, layer, tokens, pass);
  }
  const Projection output = {&w.output, &model_->lora.layers[layer].output, normed_.data()};
  {
    const StageTimer timer(times, Stage::kProjections);
    Project({&output, 1}, attended_.data(), tokens, pass);
  }
  AddBias(w.output_bias, c.hidden_size, tokens, normed_.data());
  if (w.post_attention_norm != nullptr) {
    Norm(w.post_attention_norm, normed_.data(), tokens, normed_.data());
  }
  kernels_->add(normed_.data(), size_t{tokens} * c.hidden_size, x_.data());
  return absl::OkStatus();
}

absl::Status Decoder::AddMlp(uint32_t layer, uint32_t tokens, const Pass& pass, float* y,
                             PassAccounts& accounts) {
  const float* x = normed_.data();
  if (model_->config.expert_count > 0) {
    return pass.prefill ? experts_.Tokens(layer, x, tokens, pass.precision, y, accounts)
                        : experts_.Step(layer, x, pass.step, pass.precision, y, accounts);
  }
  if (pass.prefill) {
    return mlp_.DenseTokens(layer, x, tokens, pass.precision, y, accounts);
  }
  if (pass.step == nullptr) return mlp_.Dense(layer, x, pass.precision, y, accounts);
  return mlp_.Pruned(layer, x, *pass.step, pass.precision, y, accounts);
}

absl::Status Decoder::RunMlp(uint32_t layer, uint32_t tokens, const Pass& pass,
                             PassAccounts& accounts) {
  const LayerWeights& w = model_->layers[layer];
  const size_t size = size_t{tokens} * model_->config.hidden_size;
  Norm(w.mlp_norm, x_.data(), tokens, normed_.data());
  if (w.post_mlp_norm == nullptr) return AddMlp(layer, tokens, pass, x_.data(), accounts);
  std::fill_n(mlp_out_.begin(), size, 0.0f);
  RETURN_IF_ERROR(AddMlp(layer, tokens, pass, mlp_out_.data(), accounts));
  Norm(w.post_mlp_norm, mlp_out_.data(), tokens, mlp_out_.data());
  kernels_->add(mlp_out_.data(), size, x_.data());
  return absl::OkStatus();
}

absl::Status Decoder::Forward(KvCache& kv, std::span<const TokenId> tokens, const Pass& pass,
                              PassAccounts& accounts) {
  const auto count = static_cast<uint32_t>(tokens.size());
  uint32_t rows = count;
  CHECK(count >= 1 && count <= tokens_max_ && kv.size() + count <= kv.capacity());
  const StageTimer timer(accounts.times, Stage::kOther);
  Reserve(count);
  PrepareRotations(kv, count);
  RETURN_IF_ERROR(Embed(tokens));
  for (uint32_t layer = 0; layer < model_->config.layer_count; ++layer) {
    absl::Status done = Attention(kv, layer, count, pass, accounts.times);
    // Nothing looks at the other positions behind the keys and values of the last layer.
    if (layer + 1 == model_->config.layer_count && count > 1 && !pass.every_position) {
      const size_t h = model_->config.hidden_size;
      std::copy_n(x_.begin() + static_cast<ptrdiff_t>((count - 1) * h), h, x_.begin());
      rows = 1;
    }
    if (done.ok()) done = RunMlp(layer, rows, pass, accounts);
    if (!done.ok()) {
      mlp_.Reset();
      client_->EndPass(/*complete=*/false);
      return client_->connected() ? done : StoreGone();
    }
  }
  // A store that has died may have a successor that takes over the region and fills slots we were
  // reading: what was computed counts only if ours lived to the end.
  if (!client_->connected()) {
    mlp_.Reset();
    return StoreGone();
  }
  client_->EndPass(/*complete=*/true);
  kv.set_size(kv.size() + count);
  Norm(model_->final_norm, x_.data(), rows, normed_.data());
  return absl::OkStatus();
}

absl::Status Decoder::Logits(uint32_t index, Precision precision, std::span<float> logits,
                             StageTimes& times) {
  const StageTimer timer(times, Stage::kHead);
  CHECK(logits.size() == model_->config.embedding_rows);
  const size_t h = model_->config.hidden_size;
  const Projection head = {&model_->head, &model_->lora.head, logits.data()};
  Project({&head, 1}, normed_.data() + index * h, 1, {.precision = precision});
  if (const auto bad = FirstNotFinite(logits)) {  // Before a soft cap makes infinity look sane.
    if (!client_->connected()) return StoreGone();
    return NotFinite(absl::StrCat("the logit of token ", *bad, " is ", logits[*bad]));
  }
  if (const float cap = model_->config.logit_cap; cap != 0) {
    kernels_->soft_cap(logits.size(), cap, logits.data());
  }
  return absl::OkStatus();
}

absl::Status Decoder::Prefill(KvCache& kv, std::span<const TokenId> tokens, Precision precision,
                              std::span<float> logits, PassAccounts& accounts,
                              const OnLogits& on_logits) {
  const uint32_t first = kv.size();
  const bool every = on_logits != nullptr;
  RETURN_IF_ERROR(Forward(
      kv, tokens, {.prefill = true, .precision = precision, .every_position = every}, accounts));
  const uint32_t rows = every ? static_cast<uint32_t>(tokens.size()) : 1;
  absl::Status done;
  std::vector<float> row(every ? model_->config.embedding_rows : 0);
  for (uint32_t t = 0; every && t < rows && done.ok(); ++t) {
    done = Logits(t, precision, row, accounts.times);
    if (done.ok()) on_logits(first + t, row);
  }
  if (done.ok() && !logits.empty()) done = Logits(rows - 1, precision, logits, accounts.times);
  if (!done.ok()) kv.set_size(first);
  return done;
}

absl::Status Decoder::Step(KvCache& kv, TokenId token, const PruneStep* step, Precision precision,
                           std::span<float> logits, PassAccounts& accounts) {
  RETURN_IF_ERROR(Forward(kv, {&token, 1}, {.precision = precision, .step = step}, accounts));
  const absl::Status done =
      logits.empty() ? absl::OkStatus() : Logits(0, precision, logits, accounts.times);
  if (!done.ok()) kv.set_size(kv.size() - 1);
  return done;
}

}  // namespace tidegate
