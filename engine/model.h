// One model as the decoder sees it: hyper-parameters and views of its static weights in the shared
// region. Built from a manifest; plain data, constant afterwards, readable by any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/kernels/kernels.h"
#include "proto/store/v1/unit_codec.h"
#include "weightstore/client/weight_client.h"

namespace tidegate {

struct ModelConfig {
  uint32_t layer_count = 0;
  uint32_t hidden_size = 0;        // H
  uint32_t intermediate_size = 0;  // I
  uint32_t query_heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_size = 0;
  uint32_t vocab_size = 0;
  uint32_t trained_context_tokens = 0;
  float rms_epsilon = 0;
  uint32_t rope_dims = 0;

  uint32_t query_size() const { return query_heads * head_size; }
  uint32_t kv_size() const { return kv_heads * head_size; }
};

struct LayerWeights {
  const float* attention_norm = nullptr;  // [H]
  MatrixView query;                       // [query_size, H]
  MatrixView key, value;                  // [kv_size, H]
  MatrixView output;                      // [H, query_size]
  const float* mlp_norm = nullptr;        // [H]
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
  MatrixView embedding;               // [vocab, H]
  MatrixView head;                    // [vocab, H]; the embedding again when tied
  const float* final_norm = nullptr;  // [H]
  std::vector<LayerWeights> layers;
  std::vector<UnitOrder> unit_orders[kUnitKinds];  // by kind, then layer
  std::vector<double> rope_frequencies;  // [rope_dims / 2], radians per position, scaling included
};

// `client` must outlive the model: the views point into its mapping. DATA_LOSS when a tensor is
// missing or has another shape than the hyper-parameters say.
absl::StatusOr<std::unique_ptr<const Model>> MakeModel(const WeightClient& client);

}  // namespace tidegate
