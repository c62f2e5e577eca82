// One model as the decoder sees it: hyper-parameters and views of its static weights in the shared
// region. Built from a manifest; plain data, constant afterwards, readable by any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/embedding.h"
#include "engine/kernels/kernels.h"
#include "engine/lora.h"
#include "engine/rope.h"
#include "proto/store/v1/unit_codec.h"
#include "weightstore/client/weight_client.h"

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
  uint32_t expert_slots() const { return expert_count == 0 ? 1 : expert_count + shared_experts; }
};

// Null pointers: the model has no such vector.
struct LayerWeights {
  const float* attention_norm = nullptr;                   // [H]
  MatrixView query;                                        // [query_size, H]
  MatrixView key, value;                                   // [kv_size, H]
  MatrixView output;                                       // [H, query_size]
  const float* query_bias = nullptr;                       // [query_size]
  const float *key_bias = nullptr, *value_bias = nullptr;  // [kv_size]
  const float* output_bias = nullptr;                      // [H]
  const float *query_norm = nullptr, *key_norm = nullptr;  // [head_size], before the rotation
  const float* mlp_norm = nullptr;                         // [H]
  MatrixView router;                                       // [expert_count, H]
  const float* shared_gate = nullptr;                      // [H]
  // [H], of what a block gives, before it joins the residual stream.
  const float *post_attention_norm = nullptr, *post_mlp_norm = nullptr;
};

// The rotary tables of a model.
struct ModelRope {
  RopeTable usual;
  RopeTable long_context;         // of sequences that may grow beyond original_context
  uint32_t original_context = 0;  // tokens; 0: there is no table for long contexts
  RopeTable windowed;             // of layers with a window; no frequencies: as the others

  const RopeTable& For(uint32_t context_tokens) const {
    return original_context != 0 && context_tokens > original_context ? long_context : usual;
  }
};

// How the units of one (layer, kind) lie in the pack.
struct UnitOrder {
  // unit_at[position]; empty: position == unit.
  std::vector<uint32_t> unit_at;

  uint32_t Unit(uint32_t position) const { return unit_at.empty() ? position : unit_at[position]; }
};

struct Model {
  ModelConfig config;
  UnitEncoding unit_encoding = UnitEncoding::kF32;
  Embedding embedding;                // [vocab, H]
  MatrixView head;                    // [vocab, H]; the embedding's when tied
  const float* final_norm = nullptr;  // [H]
  std::vector<LayerWeights> layers;
  std::vector<UnitOrder> unit_orders[kUnitKinds];  // by kind, then layer
  ModelRope rope;
  Lora lora;
};

// `client` must outlive the model: the views point into its mapping. `adapters` are read into
// memory. DATA_LOSS when a tensor is missing or has another shape than the hyper-parameters say;
// errors of LoadLora().
absl::StatusOr<std::unique_ptr<const Model>> MakeModel(WeightClient& client,
                                                       std::span<const LoraSource> adapters = {});

}  // namespace tidegate
