// What a model weighs, and how long a token takes when the bytes it touches come from DRAM and
// flash of given speeds and everything else is free: the simulator of arXiv 2412.01380, with
// per-read costs as an addition.
//
//   token = static / dram + sum over (layer, kind) of op(hits / dram, misses / flash)
//
// op adds, or takes the larger where reads overlap with computing. Static weights (attention,
// embeddings, head) and the key/value cache go into DRAM first; what is left holds MLP units, the
// same share of every layer and kind. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/store/v1/mask_trace.h"

namespace tidegate {

struct ModelBytes {
  MaskTraceShape shape;
  uint64_t unit_bytes[kUnitKinds] = {0, 0};
  uint64_t static_bytes = 0;
  uint64_t kv_bytes = 0;  // whole key/value cache, read for every token

  uint64_t mlp() const;
  uint64_t total() const { return static_bytes + kv_bytes + mlp(); }
};

// Published dimensions of a model.
struct ModelDimensions {
  std::string_view name;  // "llama-3-8b"
  uint32_t layers, vocab, hidden, intermediate, query_heads, kv_heads;
};
std::span<const ModelDimensions> PublishedModels();

// MLP 3 H I, attention (2 + 2 kv/heads) H^2 and a f16 key/value cache 4 H kv/heads bytes per token
// for each layer; embeddings and head V H each. bits: of every weight.
ModelBytes BytesOf(const ModelDimensions& model, double bits, uint64_t kv_tokens);

struct DeviceSpeeds {
  double dram_bytes_per_second = 60e9;
  double flash_bytes_per_second = 1e9;
  double flash_latency_seconds = 0;   // once per (layer, kind) that misses anything
  double flash_reads_per_second = 0;  // one read per missed unit; 0: unlimited
  bool overlapped = false;
};

// Share of the MLP that fits into DRAM beside what goes first, [0, 1].
double CachedShare(const ModelBytes& model, uint64_t dram_bytes);

// Seconds to read what does not fit of the static part and the key/value cache, and the rest of it
// from DRAM.
double StaticSeconds(const ModelBytes& model, uint64_t dram_bytes, const DeviceSpeeds& device);

// Seconds for one (layer, kind) of one token.
double UnitSeconds(uint64_t unit_bytes, double hits, double misses, const DeviceSpeeds& device);

// Seconds of a token that touches every weight, with a fixed share of the MLP in DRAM.
double DenseSeconds(const ModelBytes& model, uint64_t dram_bytes, const DeviceSpeeds& device);

}  // namespace tidegate
