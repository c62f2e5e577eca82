// The forward pass of a decoder-only transformer with gated MLPs, one sequence at a time:
//   x = embedding; per layer x += attention(norm(x)), x += mlp(norm(x)); logits = head(norm(x))
// Source: Touvron et al., arXiv 2302.13971 and 2307.09288 (grouped-query attention). What other
// families add (biases, norms of heads and of what the blocks give, windows, soft caps, scales) is
// said by ModelConfig and LayerWeights; no architecture is known by name here.
// Owned by one thread; uses the pool's threads inside.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/decode_attention.h"
#include "engine/expert_mlp.h"
#include "engine/kernels/kernels.h"
#include "engine/kv_cache.h"
#include "engine/lora_product.h"
#include "engine/matmul.h"
#include "engine/mlp.h"
#include "engine/model.h"
#include "engine/prompt_attention.h"
#include "engine/rope.h"
#include "engine/thread_pool.h"
#include "engine/tokenizer.h"

namespace tidegate {

class Decoder {
 public:
  // Called with the logits [embedding_rows] of one position of a prefill.
  using OnLogits = std::function<void(uint32_t position, std::span<float> logits)>;

  // Pointers are not owned. tokens_max: the longest piece that Prefill() takes at once.
  Decoder(const Model* model, WeightClient* client, ThreadPool* pool, uint32_t tokens_max,
          bool overlap);

  // How many of the `left` tokens of a prompt to take next: as few pieces as tokens_max allows, all
  // of about the same length.
  uint32_t PieceTokens(size_t left) const;

  // Appends `tokens` to the sequence with dense MLPs. The result does not depend on the pieces that
  // a prompt is cut into, bitwise; Step() rounds otherwise. logits [embedding_rows] receives those
  // of the last token unless it is empty; `on_logits`, if set, those of every token. REQUIRES: 1 <=
  // tokens.size() <= tokens_max(), room in the cache, valid ids. After an error the cache holds
  // what it held before. Keys, values or logits that are not finite numbers are INTERNAL with the
  // reason kNumbersNotFinite.
  absl::Status Prefill(KvCache& kv, std::span<const TokenId> tokens, Precision precision,
                       std::span<float> logits, PassAccounts& accounts,
                       const OnLogits& on_logits = nullptr);

  // Appends one token; step null: dense. logits [embedding_rows] may be empty.
  absl::Status Step(KvCache& kv, TokenId token, const PruneStep* step, Precision precision,
                    std::span<float> logits, PassAccounts& accounts);

  // See Mlp.
  void set_on_mask(Mlp::OnMask on_mask) { mlp_.set_on_mask(std::move(on_mask)); }
  void set_on_gate(Mlp::OnGate on_gate) { mlp_.set_on_gate(std::move(on_gate)); }
  void set_on_inputs(Mlp::OnInputs on_inputs) { mlp_.set_on_inputs(std::move(on_inputs)); }

 private:
  // How the tokens of a pass are computed: all at once, or one with or without pruning.
  struct Pass {
    bool prefill = false;
    Precision precision = Precision::kExact;
    const PruneStep* step = nullptr;
    bool every_position = false;  // leave all positions in normed_, not only the last one
  };

  absl::Status Forward(KvCache& kv, std::span<const TokenId> tokens, const Pass& pass,
                       PassAccounts& accounts);
  void Reserve(uint32_t tokens);
  absl::Status RunMlp(uint32_t layer, uint32_t tokens, const Pass& pass, PassAccounts& accounts);
  // y[t] += MLP(normed_[t]).
  absl::Status AddMlp(uint32_t layer, uint32_t tokens, const Pass& pass, float* y,
                      PassAccounts& accounts);
  absl::Status Embed(std::span<const TokenId> tokens);
  absl::Status Attention(KvCache& kv, uint32_t layer, uint32_t tokens, const Pass& pass,
                         StageTimes& times);
  // Queries, keys and values of normed_, in place; keys and values also in the cache.
  absl::Status PrepareHeads(KvCache& kv, uint32_t layer, uint32_t tokens, const Pass& pass,
                            StageTimes& times);
  void Attend(const KvCache& kv, uint32_t layer, uint32_t tokens, const Pass& pass);
  struct Projection {
    const MatrixView* w;
    const LoraFactors* lora;
    float* y;  // [tokens, rows]
  };
  // Every projection of the same x [tokens, columns].
  void Project(std::span<const Projection> projections, const float* x, uint32_t tokens,
               const Pass& pass);
  void PrepareRotations(const KvCache& kv, uint32_t tokens);
  const Rotations& RotationsOf(uint32_t layer) const;
  // Norms and turns the heads [head_count, head_size] of one token.
  void PlaceHeads(const float* norm, uint32_t layer, uint32_t token, float* heads,
                  uint32_t head_count) const;
  // out[t] = rms_norm(x[t]), both [tokens, H].
  void Norm(const float* weight, const float* x, uint32_t tokens, float* out);
  // y[t] += bias, y [tokens, size]; null: nothing.
  void AddBias(const float* bias, size_t size, uint32_t tokens, float* y);
  absl::Status Logits(uint32_t index, Precision precision, std::span<float> logits,
                      StageTimes& times);

  const Model* const model_;
  WeightClient* const client_;
  const Kernels* const kernels_;
  ThreadPool* const pool_;
  const uint32_t tokens_max_;
  Mlp mlp_;
  ExpertMlp experts_;  // over mlp_, where the model is a mixture
  Matmul matmul_;
  LoraProduct lora_;
  PromptAttention prompt_attention_;
  DecodeAttention decode_attention_;
  Rotations rotations_, windowed_rotations_;  // of the tokens of a pass
  // Activations, [tokens, ...], as large as the longest piece so far.
  std::vector<float> x_, normed_;        // H
  std::vector<float> mlp_out_;           // H, where it is normed before it joins x_
  std::vector<float> query_, attended_;  // query_size
  std::vector<float> key_, value_;       // kv_size
};

}  // namespace tidegate
