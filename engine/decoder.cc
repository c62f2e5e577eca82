#include "engine/decoder.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error_reason.h"
#include "base/status_macros.h"
#include "engine/grow.h"
#include "proto/gguf/finite.h"
#include "proto/store/v1/static_rows.h"

namespace tidegate {
namespace {

constexpr size_t kMatrixRowGranule = 8;  // matrix rows per thread come in these
constexpr size_t kLogitLanes = 16;  // rows whose logits are computed with one pass over the head

// Packs hold finite numbers only: these have grown too large on the way.
absl::Status NotFinite(const std::string& what) {
  return WithErrorReason(
      absl::InternalError(absl::StrCat(
          what,
          ": the model's numbers grow beyond what this arithmetic holds; its weights may be "
          "damaged, or made for another precision")),
      kNumbersNotFinite);
}

// What else may be wrong with a number that is stored.
const char* OrTooLarge(KvType type) {
  switch (type) {
    case KvType::kF32:
      return "";
    case KvType::kF16:
      return ", or too large for a half";
    case KvType::kQ8:
      return ", or too large for 8 bits and a half scale";
  }
  return "";
}

absl::Status StoreGone() {
  return absl::UnavailableError("the weight store is gone; retry when it is back");
}

}  // namespace

Decoder::Decoder(const Model* model, WeightClient* client, ThreadPool* pool, bool overlap)
    : model_(model),
      client_(client),
      kernels_(&BestKernels(Precision::kExact)),
      pool_(pool),
      units_(client),
      mlp_(model, &units_, pool, overlap),
      experts_(model, &mlp_, pool),
      matmul_(pool),
      lora_(pool),
      prompt_attention_(&model->config, kernels_, pool),
      decode_attention_(&model->config, kernels_, pool) {
  Reserve(1);
}

void Decoder::Reserve(size_t rows) {
  const ModelConfig& c = model_->config;
  const auto grow = [&](std::vector<float>& activations, size_t size) {
    GrowAnew(rows * size, activations);
  };
  grow(x_, c.hidden_size);
  grow(normed_, c.hidden_size);
  if (model_->layers.front().post_mlp_norm != nullptr) grow(mlp_out_, c.hidden_size);
  grow(query_, c.query_size());
  grow(attended_, c.query_size());
  grow(key_, c.kv_size());
  grow(value_, c.kv_size());
}

void Decoder::PlaceRows(std::span<const BatchSequence> batch) {
  groups_.clear();
  rows_.clear();
  for (const RowForm form : {RowForm::kPrompt, RowForm::kDecode}) {
    for (const Precision precision : {Precision::kExact, Precision::kFast}) {
      Group group = {form, precision, static_cast<uint32_t>(rows_.size())};
      for (uint32_t s = 0; s < batch.size(); ++s) {
        if (batch[s].form != form || batch[s].precision != precision) continue;
        for (uint32_t i = 0; i < batch[s].tokens.size(); ++i) {
          rows_.push_back({.sequence = s, .index = i, .position = batch[s].kv->size() + i});
        }
      }
      group.count = static_cast<uint32_t>(rows_.size()) - group.first;
      if (group.count > 0) groups_.push_back(group);
    }
  }
}

void Decoder::PrepareRotations(std::span<const BatchSequence> batch) {
  const ModelRope& rope = model_->rope;
  rotations_.Clear();
  windowed_rotations_.Clear();
  for (const Row& row : rows_) {
    if (row.index != 0) continue;  // A sequence's rows lie together.
    const BatchSequence& sequence = batch[row.sequence];
    const auto count = static_cast<uint32_t>(sequence.tokens.size());
    rotations_.Append(rope.For(sequence.kv->context_tokens()), row.position, count);
    if (!rope.windowed.frequencies.empty()) {
      windowed_rotations_.Append(rope.windowed, row.position, count);
    }
  }
}

absl::Status Decoder::Embed(std::span<const BatchSequence> batch) {
  std::vector<TokenId> tokens;
  for (const Row& row : rows_) tokens.push_back(batch[row.sequence].tokens[row.index]);
  RETURN_IF_ERROR(model_->embedding.Decode(tokens, x_.data()));
  if (const float scale = model_->config.embedding_scale; scale != 1) {
    for (size_t i = 0; i < tokens.size() * model_->config.hidden_size; ++i) x_[i] *= scale;
  }
  return absl::OkStatus();
}

void Decoder::Norm(const float* weight, const float* x, float* out) {
  const size_t h = model_->config.hidden_size;
  for (size_t r = 0; r < rows_.size(); ++r) {
    kernels_->rms_norm(x + r * h, weight, h, model_->config.rms_epsilon, out + r * h);
  }
}

void Decoder::AddBias(const float* bias, size_t size, float* y) {
  if (bias == nullptr) return;
  for (size_t r = 0; r < rows_.size(); ++r) kernels_->add(bias, size, y + r * size);
}

void Decoder::ProjectGroup(const Group& group, const Projection& projection, const float* x) {
  const MatrixView& w = *projection.w;
  float* const y = projection.y + group.first * w.rows;
  if (group.form == RowForm::kPrompt) return matmul_.MultiplyRows(w, y);
  lane_x_.clear();
  lane_y_.clear();
  for (size_t r = 0; r < group.count; ++r) {
    lane_x_.push_back(x + (group.first + r) * w.columns);
    lane_y_.push_back(y + r * w.rows);
  }
  const Kernels& kernels = BestKernels(group.precision);
  const size_t lanes = group.count;
  pool_->For(w.rows, kMatrixRowGranule, w.rows * w.row_bytes * lanes,
             [&](size_t begin, size_t end) {
               if (lanes == 1) return kernels.mat_vec(w, begin, end, lane_x_[0], lane_y_[0]);
               kernels.mat_vec_lanes(w, begin, end, lane_x_.data(), lane_y_.data(), lanes);
             });
}

void Decoder::Project(std::span<const Projection> projections, const float* x) {
  const size_t depth = projections[0].w->columns;
  for (const Group& group : groups_) {
    const bool prompt = group.form == RowForm::kPrompt;
    const float* const first = x + group.first * depth;
    if (prompt) {
      matmul_.Pack(group.precision,
                   {.data = first, .stride = depth, .depth = depth, .tokens = group.count});
    }
    for (const Projection& p : projections) ProjectGroup(group, p, x);
    for (const Projection& p : projections) {
      float* const y = p.y + group.first * p.w->rows;
      if (prompt) {
        lora_.Add(*p.lora, first, group.count, /*many=*/true, group.precision, y);
        continue;
      }
      for (size_t r = 0; r < group.count && p.lora->rank > 0; ++r) {
        lora_.Add(*p.lora, first + r * depth, 1, /*many=*/false, group.precision,
                  y + r * p.w->rows);
      }
    }
  }
}

const Rotations& Decoder::RotationsOf(uint32_t layer) const {
  const bool own = model_->config.windows[layer] != 0 && !model_->rope.windowed.frequencies.empty();
  return own ? windowed_rotations_ : rotations_;
}

void Decoder::PlaceHeads(const float* norm, uint32_t layer, uint32_t row, float* heads,
                         uint32_t head_count) const {
  const ModelConfig& c = model_->config;
  for (uint32_t head = 0; norm != nullptr && head < head_count; ++head) {
    float* x = heads + size_t{head} * c.head_size;
    kernels_->rms_norm(x, norm, c.head_size, c.rms_epsilon, x);
  }
  RotationsOf(layer).Rotate(c.rope_pairs, row, heads, head_count, c.head_size);
}

void Decoder::PrepareHeads(std::span<const BatchSequence> batch, uint32_t layer, StepCost& cost) {
  const ModelConfig& c = model_->config;
  const LayerWeights& w = model_->layers[layer];
  const LayerLora& lora = model_->lora.layers[layer];
  const Projection inputs[] = {{&w.query, &lora.query, query_.data()},
                               {&w.key, &lora.key, key_.data()},
                               {&w.value, &lora.value, value_.data()}};
  {
    const StageTimer timer(cost.step.times, Stage::kProjections);
    Project(inputs, normed_.data());
  }
  AddBias(w.query_bias, c.query_size(), query_.data());
  AddBias(w.key_bias, c.kv_size(), key_.data());
  AddBias(w.value_bias, c.kv_size(), value_.data());
  finite_.assign(rows_.size(), 1);
  const size_t touched = rows_.size() * (c.query_size() + 2 * c.kv_size()) * sizeof(float);
  pool_->For(rows_.size(), 1, touched, [&](size_t begin, size_t end) {
    for (size_t r = begin; r < end; ++r) {
      const auto row = static_cast<uint32_t>(r);
      float* const key = key_.data() + r * c.kv_size();
      PlaceHeads(w.query_norm, layer, row, query_.data() + r * c.query_size(), c.query_heads);
      PlaceHeads(w.key_norm, layer, row, key, c.kv_heads);
      finite_[r] = batch[rows_[r].sequence].kv->Store(*kernels_, layer, rows_[r].position, key,
                                                      value_.data() + r * c.kv_size());
    }
  });
  for (size_t r = 0; r < rows_.size(); ++r) {
    absl::Status& status = cost.statuses[rows_[r].sequence];
    if (finite_[r] != 0 || !status.ok()) continue;
    status = NotFinite(absl::StrCat("layer ", layer, ", position ", rows_[r].position,
                                    ": a key or value is not a finite number",
                                    OrTooLarge(batch[rows_[r].sequence].kv->type())));
  }
}

void Decoder::Attend(std::span<const BatchSequence> batch, uint32_t layer) {
  const size_t width = model_->config.query_size();
  attention_rows_.clear();
  for (const Group& group : groups_) {
    for (uint32_t r = group.first; r < group.first + group.count; ++r) {
      const Row& row = rows_[r];
      const BatchSequence& sequence = batch[row.sequence];
      const float* const query = query_.data() + r * width;
      float* const out = attended_.data() + r * width;
      if (group.form == RowForm::kDecode) {
        attention_rows_.push_back(
            {.kv = sequence.kv, .position = row.position, .query = query, .out = out});
      } else if (row.index == 0) {  // A sequence's rows lie together.
        const auto count = static_cast<uint32_t>(sequence.tokens.size());
        prompt_attention_.Run(*sequence.kv, layer, row.position, count, query, out);
      }
    }
  }
  if (!attention_rows_.empty()) decode_attention_.Run(layer, attention_rows_);
}

void Decoder::Attention(std::span<const BatchSequence> batch, uint32_t layer, StepCost& cost) {
  const ModelConfig& c = model_->config;
  const LayerWeights& w = model_->layers[layer];
  Norm(w.attention_norm, x_.data(), normed_.data());
  PrepareHeads(batch, layer, cost);
  {
    const StageTimer timer(cost.step.times, Stage::kAttention);
    Attend(batch, layer);
  }
  if (layer + 1 == c.layer_count) KeepLogitRows(batch);
  if (rows_.empty()) return;
  const Projection output = {&w.output, &model_->lora.layers[layer].output, normed_.data()};
  {
    const StageTimer timer(cost.step.times, Stage::kProjections);
    Project({&output, 1}, attended_.data());
  }
  AddBias(w.output_bias, c.hidden_size, normed_.data());
  if (w.post_attention_norm != nullptr) {
    Norm(w.post_attention_norm, normed_.data(), normed_.data());
  }
  kernels_->add(normed_.data(), rows_.size() * c.hidden_size, x_.data());
}

// Nothing looks at the other rows behind the keys and values of the last layer.
void Decoder::KeepLogitRows(std::span<const BatchSequence> batch) {
  const size_t h = model_->config.hidden_size, width = model_->config.query_size();
  size_t kept = 0;
  for (Group& group : groups_) {
    const size_t first = kept;
    for (size_t r = group.first; r < group.first + group.count; ++r) {
      const BatchSequence& sequence = batch[rows_[r].sequence];
      if (rows_[r].index + sequence.logit_rows < sequence.tokens.size()) continue;
      if (kept != r) {
        std::copy_n(x_.data() + r * h, h, x_.data() + kept * h);
        std::copy_n(attended_.data() + r * width, width, attended_.data() + kept * width);
        rows_[kept] = rows_[r];
      }
      ++kept;
    }
    group.first = static_cast<uint32_t>(first);
    group.count = static_cast<uint32_t>(kept - first);
  }
  rows_.resize(kept);
  std::erase_if(groups_, [](const Group& group) { return group.count == 0; });
}

void Decoder::ListMlpRows(std::span<const BatchSequence> batch, float* y) {
  const size_t h = model_->config.hidden_size;
  row_sequences_.clear();
  row_prune_.clear();
  mlp_rows_.clear();
  for (const Row& row : rows_) {
    row_sequences_.push_back(row.sequence);
    row_prune_.push_back(batch[row.sequence].prune);
  }
  for (const Group& group : groups_) {
    MlpRows rows = {.form = group.form,
                    .precision = group.precision,
                    .count = group.count,
                    .x = normed_.data() + group.first * h,
                    .y = y + group.first * h,
                    .sequences = std::span(row_sequences_).subspan(group.first, group.count)};
    if (group.form == RowForm::kDecode) {
      rows.prune = std::span(row_prune_).subspan(group.first, group.count);
    }
    mlp_rows_.push_back(rows);
  }
}

uint32_t Decoder::UsersOfNext(std::span<const BatchSequence> batch, uint32_t layer) const {
  const uint32_t layers = model_->config.layer_count;
  if (layer + 1 >= layers) return 0;
  UsersAhead users;
  for (const BatchSequence& sequence : batch) {
    const auto count = static_cast<uint32_t>(sequence.tokens.size());
    const uint32_t rows = layer + 2 == layers ? std::min(count, sequence.logit_rows) : count;
    if (rows > 0) users.Add(sequence.prune, sequence.form == RowForm::kPrompt ? 1 : rows);
  }
  return users.count();
}

absl::Status Decoder::RunMlp(uint32_t layer, const MlpAhead& ahead, StepCost& cost) {
  return model_->config.expert_count > 0 ? experts_.Run(layer, mlp_rows_, cost)
                                         : mlp_.Run(layer, mlp_rows_, cost, ahead);
}

absl::Status Decoder::RunLayers(std::span<const BatchSequence> batch, StepCost& cost) {
  const size_t h = model_->config.hidden_size;
  for (uint32_t layer = 0; layer < model_->config.layer_count; ++layer) {
    const LayerWeights& w = model_->layers[layer];
    Attention(batch, layer, cost);
    if (rows_.empty()) break;
    Norm(w.mlp_norm, x_.data(), normed_.data());
    const MlpAhead ahead = {.layer = layer + 1, .users = UsersOfNext(batch, layer)};
    const bool normed = w.post_mlp_norm != nullptr;
    if (normed) std::fill_n(mlp_out_.begin(), rows_.size() * h, 0.0f);
    ListMlpRows(batch, normed ? mlp_out_.data() : x_.data());
    RETURN_IF_ERROR(RunMlp(layer, ahead, cost));
    if (!normed) continue;
    Norm(w.post_mlp_norm, mlp_out_.data(), mlp_out_.data());
    kernels_->add(mlp_out_.data(), rows_.size() * h, x_.data());
  }
  return absl::OkStatus();
}

absl::Status Decoder::Run(std::span<const BatchSequence> batch, const OnLogits& on_logits,
                          StepCost& cost) {
  cost.step = {};
  cost.sequences.assign(batch.size(), {});
  cost.statuses.assign(batch.size(), absl::OkStatus());
  const StageTimer timer(cost.step.times, Stage::kOther);
  for (const BatchSequence& sequence : batch) {
    CHECK(!sequence.tokens.empty());
  }
  PlaceRows(batch);
  Reserve(rows_.size());
  PrepareRotations(batch);
  RETURN_IF_ERROR(Embed(batch));
  const absl::Status done = RunLayers(batch, cost);
  if (!done.ok()) {
    mlp_.Reset();
    client_->EndPass(/*complete=*/false);
    return client_->connected() ? done : StoreGone();
  }
  // A store that has died may have a successor that takes over the region and fills slots we were
  // reading: what was computed counts only if ours lived to the end.
  if (!client_->connected()) {
    mlp_.Reset();
    return StoreGone();
  }
  client_->EndPass(/*complete=*/true);
  for (size_t s = 0; s < batch.size(); ++s) {
    KvCache& kv = *batch[s].kv;
    if (cost.statuses[s].ok())
      kv.set_size(kv.size() + static_cast<uint32_t>(batch[s].tokens.size()));
  }
  if (!rows_.empty() && on_logits != nullptr) Logits(batch, on_logits, cost);
  return absl::OkStatus();
}

void Decoder::Logits(std::span<const BatchSequence> batch, const OnLogits& on_logits,
                     StepCost& cost) {
  const StageTimer timer(cost.step.times, Stage::kHead);
  const size_t h = model_->config.hidden_size, width = model_->config.embedding_rows;
  Norm(model_->final_norm, x_.data(), normed_.data());
  GrowAnew(std::min(rows_.size(), kLogitLanes) * width, logits_);
  for (const Group& group : groups_) {
    for (uint32_t at = 0; at < group.count; at += kLogitLanes) {
      const uint32_t first = group.first + at;
      const auto count = std::min<uint32_t>(kLogitLanes, group.count - at);
      const Group lanes = {RowForm::kDecode, group.precision, 0, count};
      const Projection head = {&model_->head, &model_->lora.head, logits_.data()};
      ProjectGroup(lanes, head, normed_.data() + first * h);
      for (uint32_t r = 0; r < count; ++r) {
        const std::span<float> logits(logits_.data() + r * width, width);
        lora_.Add(*head.lora, normed_.data() + (first + r) * h, 1, /*many=*/false, group.precision,
                  logits.data());
        TakeLogits(batch, rows_[first + r], logits, on_logits, cost);
      }
    }
  }
}

void Decoder::TakeLogits(std::span<const BatchSequence> batch, const Row& row,
                         std::span<float> logits, const OnLogits& on_logits, StepCost& cost) {
  absl::Status& status = cost.statuses[row.sequence];
  if (!status.ok()) return;
  // Before a soft cap makes infinity look sane.
  if (const auto bad = FirstNotFinite(logits)) {
    KvCache& kv = *batch[row.sequence].kv;
    kv.set_size(kv.size() - static_cast<uint32_t>(batch[row.sequence].tokens.size()));
    status = client_->connected()
                 ? NotFinite(absl::StrCat("the logit of token ", *bad, " is ", logits[*bad]))
                 : StoreGone();
    return;
  }
  if (const float cap = model_->config.logit_cap; cap != 0) {
    kernels_->soft_cap(logits.size(), cap, logits.data());
  }
  on_logits(row.sequence, row.index, logits);
}

}  // namespace tidegate
