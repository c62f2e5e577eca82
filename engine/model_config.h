// Sizes and constants of one model, as its manifest gives them. Plain data, constant once read;
// readable by any thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/rope.h"

namespace tidegate {

enum class Activation { kSilu, kGeluTanh };

struct ModelConfig {
  uint32_t layer_count = 0;
  uint32_t hidden_size = 0;        // H
  uint32_t intermediate_size = 0;  // I, of one expert where there are several
  uint32_t query_heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_size = 0;
  uint32_t embedding_rows = 0;  // of the head too; may be more than the tokenizer has tokens
  uint32_t trained_context_tokens = 0;
  float rms_epsilon = 0;
  uint32_t rope_dims = 0;
  RopePairs rope_pairs = RopePairs::kAdjacent;
  Activation activation = Activation::kSilu;
  float embedding_scale = 1;  // factor on the rows of the embedding
  float attention_scale = 1;  // factor on query . key
  float attention_cap = 0;    // soft cap of attention scores; 0: none
  float logit_cap = 0;        // soft cap of the logits; 0: none
  // Mixtures: experts that the router chooses among (0: one plain MLP), how many each token uses,
  // whether their weights are scaled to sum up to 1, and experts behind them that all tokens use.
  uint32_t expert_count = 0, experts_used = 0;
  bool normalise_expert_weights = false;
  uint32_t shared_experts = 0;
  // Positions that a token sees in each layer, itself included; 0: all of them.
  std::vector<uint32_t> windows;

  uint32_t query_size() const { return query_heads * head_size; }
  uint32_t kv_size() const { return kv_heads * head_size; }
  // Positions that a token sees at most, in any layer; 0: some layer sees all.
  uint32_t largest_window() const {
    uint32_t largest = 0;
    for (const uint32_t window : windows) {
      if (window == 0) return 0;
      largest = std::max(largest, window);
    }
    return largest;
  }
  uint32_t expert_slots() const { return expert_count == 0 ? 1 : expert_count + shared_experts; }
};

}  // namespace tidegate
