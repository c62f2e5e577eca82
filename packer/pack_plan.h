// Decides whether and how a GGUF file becomes a pack, from its metadata and tensor directory alone:
// no weights are read. WritePack() and `tidegate inspect` use the same answer. The plan points into
// the SourceModel, which must outlive it. Thread-compatible.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "packer/architecture.h"
#include "packer/lora.h"
#include "packer/pack_options.h"
#include "packer/source_model.h"
#include "proto/store/v1/manifest.pb.h"
#include "proto/store/v1/pack_format.h"

namespace tidegate {

// The matrices of one MLP. gate, up: [I, H]; down: [H, I] (rows, columns). Of several shared
// experts, which are one wide MLP in the source, the first has all columns of down, the others
// null.
struct LayerMatrices {
  const GgufTensor* gate = nullptr;
  const GgufTensor* up = nullptr;
  const GgufTensor* down = nullptr;
};

struct PackPlan {
  // Complete but for what the weights decide: checksums of static tensors, norms, errors.
  store::v1::Manifest manifest;
  PackGeometry geometry;
  std::vector<const GgufTensor*> statics;  // in the order of manifest.static_tensors
  std::deque<GgufTensor> slices;           // of fused tensors; the pointers may point here
  std::vector<LayerMatrices> layers;       // by layer, then expert
  uint64_t static_bytes = 0;
  bool requantised = false;  // see PackReport
};

// INVALID_ARGUMENT names the key or tensor that stands in the way and, where there is one, the
// remedy.
// `adapters` (null: none) have been opened for the same source; options.adapters is not looked at.
absl::StatusOr<PackPlan> PlanPack(const SourceModel& source, const PackOptions& options,
                                  const LoraSet* adapters = nullptr);

}  // namespace tidegate
