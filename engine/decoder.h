// The forward pass of a Llama-architecture model, one sequence at a time:
//   x = embedding; per layer x += attention(norm(x)), x += mlp(norm(x)); logits = head(norm(x))
// Source: Touvron et al., arXiv 2302.13971 and 2307.09288 (grouped-query attention); rotary pairs
// (2i, 2i+1) as GGUF's `llama` architecture stores them (Su et al., arXiv 2104.09864).
// Owned by one thread; uses the pool's threads inside.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/kernels/kernels.h"
#include "engine/kv_cache.h"
#include "engine/mlp.h"
#include "engine/model.h"
#include "engine/thread_pool.h"
#include "engine/tokenizer.h"

namespace tidegate {

class Decoder {
 public:
  // Called with the logits [vocab_size] of one position of a prefill.
  using OnLogits = std::function<void(uint32_t position, std::span<float> logits)>;

  // Pointers are not owned. tokens_max: the longest piece that Prefill() takes at once.
  Decoder(const Model* model, WeightClient* client, const Kernels* kernels, ThreadPool* pool,
          uint32_t tokens_max, bool overlap);

  uint32_t tokens_max() const { return tokens_max_; }

  // Appends `tokens` to the sequence with dense MLPs. logits [vocab_size] receives those of the
  // last token unless it is empty; `on_logits`, if set, those of every token. REQUIRES: 1 <=
  // tokens.size() <= tokens_max(), room in the cache, valid ids. After an error the cache holds
  // what it held before.
  absl::Status Prefill(KvCache& kv, std::span<const TokenId> tokens, std::span<float> logits,
                       MlpAccounts& accounts, const OnLogits& on_logits = nullptr);

  // Appends one token; step null: dense. logits [vocab_size] may be empty.
  absl::Status Step(KvCache& kv, TokenId token, const PruneStep* step, std::span<float> logits,
                    MlpAccounts& accounts);

 private:
  absl::Status Forward(KvCache& kv, std::span<const TokenId> tokens, const PruneStep* step,
                       MlpAccounts& accounts);
  void Embed(std::span<const TokenId> tokens);
  void Attention(KvCache& kv, uint32_t layer, uint32_t tokens);
  void Project(const MatrixView& w, const float* x, size_t x_stride, uint32_t tokens, float* y);
  void Rotate(float* heads, uint32_t head_count, uint32_t position) const;
  void Attend(const KvCache& kv, uint32_t layer, uint32_t first_position, uint32_t tokens);
  void Norm(const float* weight, uint32_t tokens);
  void Logits(uint32_t index, std::span<float> logits);

  const Model* const model_;
  WeightClient* const client_;
  const Kernels* const kernels_;
  ThreadPool* const pool_;
  const uint32_t tokens_max_;
  Mlp mlp_;
  // Activations, [tokens, ...].
  std::vector<float> x_, normed_;        // H
  std::vector<float> query_, attended_;  // query_size
  std::vector<float> key_, value_;       // kv_size
  std::vector<float> scores_;            // [tokens * query_heads, positions]
};

}  // namespace tidegate
