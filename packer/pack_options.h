// How to pack: what `tidegate pack` lets a user choose, and how progress is told. Plain data.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "packer/input_moments.h"
#include "proto/gguf/lora_file.h"
#include "proto/store/v1/manifest.pb.h"
#include "proto/store/v1/unit_codec.h"

namespace tidegate {

struct PackOptions {
  UnitEncoding units = UnitEncoding::kQ8;
  // Block size in bytes, a multiple of 512. 0: the whole sectors that one input unit needs; as
  // many as 8 hidden units where they are small (UsualUnitsPerBlock in pack_plan.cc).
  uint64_t block_bytes = 0;
  uint64_t hidden_block_bytes = 0;  // of hidden units only; 0: as block_bytes says
  bool one_unit_per_block = false;  // pad instead of sharing: cache experiments by unit
  // A recording of masks (mask_trace.h): units lie in the order of how often they were selected,
  // so that those which are read together lie together. Empty: the model's order.
  std::string trace_path = {};
  uint64_t memory_bytes = 512ull << 20;   // working memory for transposing
  std::vector<LoraSource> adapters = {};  // matrices that an adapter touches are stored as F32
  // By layer, of a calibration text: grouped encodings are rounded with error feedback. Not owned;
  // empty: every column is rounded for itself.
  std::span<const LayerMoments> moments = {};
  // What `tidegate profile` measured on this model (proto/store/v1/profile.h), checked by itself.
  std::optional<store::v1::Profile> profile = {};
};

// Called now and then with bytes done and in all, on the thread that packs.
using PackProgress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

}  // namespace tidegate
