// The forward pass of a decoder-only transformer with gated MLPs, for rows of any sequences:
//   x = embedding; per layer x += attention(norm(x)), x += mlp(norm(x)); logits = head(norm(x))
// Source: Touvron et al., arXiv 2302.13971 and 2307.09288 (grouped-query attention). What other
// families add (biases, norms of heads and of what the blocks give, windows, soft caps, scales) is
// said by ModelConfig and LayerWeights; no architecture is known by name here.
// Owned by one thread; uses the pool's threads inside.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/batch.h"
#include "engine/decode_attention.h"
#include "engine/expert_mlp.h"
#include "engine/kernels/kernels.h"
#include "engine/leased_units.h"
#include "engine/lora_product.h"
#include "engine/matmul.h"
#include "engine/mlp.h"
#include "engine/model.h"
#include "engine/prompt_attention.h"
#include "engine/rope.h"
#include "engine/thread_pool.h"

namespace tidegate {

class Decoder {
 public:
  // Called with the logits [embedding_rows] of the row of the `index`-th token of a sequence of the
  // batch. It may change them.
  using OnLogits = std::function<void(size_t sequence, uint32_t index, std::span<float> logits)>;

  // Pointers are not owned. overlap: see UnitSweep.
  Decoder(const Model* model, WeightClient* client, ThreadPool* pool, bool overlap);

  // Computes one step: appends the rows of every sequence of the batch to its KV cache, and gives
  // the logits that are wanted, unless on_logits is null. A row's result does not depend on how a
  // prompt is cut into steps, bitwise. REQUIRES: every sequence occurs once and has tokens, valid
  // ids, and room in its cache (KvCache::Grow()).
  //
  // After an error no cache has grown: UNAVAILABLE, DATA_LOSS, or what the store's client was told
  // while it waited. Where single sequences fail, the result is OK and StepCost::statuses says so.
  absl::Status Run(std::span<const BatchSequence> batch, const OnLogits& on_logits, StepCost& cost);

  // See Mlp.
  void set_on_mask(Mlp::OnMask on_mask) { mlp_.set_on_mask(std::move(on_mask)); }
  void set_on_gate(Mlp::OnGate on_gate) { mlp_.set_on_gate(std::move(on_gate)); }
  void set_on_inputs(Mlp::OnInputs on_inputs) { mlp_.set_on_inputs(std::move(on_inputs)); }

 private:
  // Rows of one form and precision, which lie together.
  struct Group {
    RowForm form;
    Precision precision;
    uint32_t first = 0, count = 0;
  };
  struct Row {
    uint32_t sequence = 0;  // of the batch
    uint32_t index = 0;     // of its tokens
    uint32_t position = 0;
  };
  struct Projection {
    const MatrixView* w;
    const LoraFactors* lora;
    float* y;  // [rows, w->rows]
  };

  // groups_ and rows_: those of prompt form first, by precision.
  void PlaceRows(std::span<const BatchSequence> batch);
  void PrepareRotations(std::span<const BatchSequence> batch);
  void Reserve(size_t rows);
  absl::Status Embed(std::span<const BatchSequence> batch);
  absl::Status RunLayers(std::span<const BatchSequence> batch, StepCost& cost);
  void Attention(std::span<const BatchSequence> batch, uint32_t layer, StepCost& cost);
  // Queries, keys and values of normed_, in place; keys and values also in the caches.
  void PrepareHeads(std::span<const BatchSequence> batch, uint32_t layer, StepCost& cost);
  void Attend(std::span<const BatchSequence> batch, uint32_t layer);
  // Forgets the rows that nobody wants logits of.
  void KeepLogitRows(std::span<const BatchSequence> batch);
  absl::Status RunMlp(uint32_t layer, const MlpAhead& ahead, StepCost& cost);
  // The argument of Mlp::Run(): y[r] += MLP(normed_[r]).
  void ListMlpRows(std::span<const BatchSequence> batch, float* y);
  // Users of all units in the next layer's MLP, whose rows may be fewer: see MlpAhead.
  uint32_t UsersOfNext(std::span<const BatchSequence> batch, uint32_t layer) const;
  // Every projection of the same x [rows, columns].
  void Project(std::span<const Projection> projections, const float* x);
  void ProjectGroup(const Group& group, const Projection& projection, const float* x);
  const Rotations& RotationsOf(uint32_t layer) const;
  // Norms and turns the heads [head_count, head_size] of one row.
  void PlaceHeads(const float* norm, uint32_t layer, uint32_t row, float* heads,
                  uint32_t head_count) const;
  // out[r] = rms_norm(x[r]), both [rows, H].
  void Norm(const float* weight, const float* x, float* out);
  // y[r] += bias, y [rows, size]; null: nothing.
  void AddBias(const float* bias, size_t size, float* y);
  void Logits(std::span<const BatchSequence> batch, const OnLogits& on_logits, StepCost& cost);
  void TakeLogits(std::span<const BatchSequence> batch, const Row& row, std::span<float> logits,
                  const OnLogits& on_logits, StepCost& cost);

  const Model* const model_;
  WeightClient* const client_;
  const Kernels* const kernels_;
  ThreadPool* const pool_;
  LeasedUnits units_;
  Mlp mlp_;
  ExpertMlp experts_;  // over mlp_, where the model is a mixture
  Matmul matmul_;
  LoraProduct lora_;
  PromptAttention prompt_attention_;
  DecodeAttention decode_attention_;
  // Scratch of a step.
  std::vector<Group> groups_;
  std::vector<Row> rows_;
  std::vector<uint32_t> row_sequences_;
  std::vector<const RowPruning*> row_prune_;
  std::vector<MlpRows> mlp_rows_;
  std::vector<AttentionRow> attention_rows_;
  std::vector<const float*> lane_x_;
  std::vector<float*> lane_y_;
  std::vector<uint8_t> finite_;  // by row
  Rotations rotations_, windowed_rotations_;
  // Activations, [rows, ...], as large as the largest step so far.
  std::vector<float> x_, normed_;        // H
  std::vector<float> mlp_out_;           // H, where it is normed before it joins x_
  std::vector<float> query_, attended_;  // query_size
  std::vector<float> key_, value_;       // kv_size
  std::vector<float> logits_;            // [lanes, embedding_rows]
};

}  // namespace tidegate
