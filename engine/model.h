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
#include "engine/model_config.h"
#include "engine/rope.h"
#include "proto/store/v1/unit_codec.h"
#include "weightstore/client/weight_client.h"

namespace tidegate {

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
