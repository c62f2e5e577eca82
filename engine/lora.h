// LoRA adapters as the engine holds them: beside the weights of the store, which stay as they are.
//   y = W x + B (A x), for each matrix W that an adapter changes
// Where pruning leaves units out, they are left out of x here as well: the result is that of
// merged weights, W + B A, under the same mask, but for rounding (and for what merged units lose by
// being quantised). Plain data, constant once loaded, readable by any thread.
// Source: Hu et al., arXiv 2106.09685.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/kernels/kernels.h"
#include "proto/gguf/lora_file.h"

namespace tidegate {

struct ModelConfig;

// Factors of all adapters of one matrix [out, in], one below the other. rank 0: none.
struct LoraFactors {
  size_t rank = 0, in = 0, out = 0;
  std::vector<float> a;  // [rank, in]
  std::vector<float> b;  // [rank, out]: columns of B, times scale * alpha / rank

  MatrixView A() const {
    return {.type = GgmlType::kF32,
            .data = reinterpret_cast<const std::byte*>(a.data()),
            .rows = rank,
            .columns = in,
            .row_bytes = in * sizeof(float)};
  }
};

struct LayerLora {
  LoraFactors query, key, value, output;  // of attention
  LoraFactors gate, up, down;             // of the MLP
};

struct Lora {
  std::vector<LayerLora> layers;
  LoraFactors head;
  std::vector<std::string> descriptions;  // "adapter.gguf x 0.5"

  uint64_t bytes() const;       // of all factors
  size_t largest_rank() const;  // of one matrix's factors
};

// Empty factors for every layer if there are no sources. `own_head`: the head is not the embedding.
// Errors name the adapter and the tensor, and are INVALID_ARGUMENT whatever is wrong, a damaged or
// missing file too: an adapter is an argument, and no store that comes back mends it.
absl::StatusOr<Lora> LoadLora(std::span<const LoraSource> sources, const std::string& architecture,
                              const ModelConfig& config, bool own_head);

}  // namespace tidegate
