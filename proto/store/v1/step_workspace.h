// How much memory the steps of an engine take beside weights, keys and values: their workspace. The
// store leaves room for it in the engine's reserve, the engine takes it out of its reserve before
// it has pages. The sizes are those of engine/decoder.h and of what a decoder owns;
// tests/engine/step_workspace_test.cc compares them with what real steps allocate. Pure.
#pragma once

#include <cstdint>

#include "proto/store/v1/manifest.pb.h"
#include "proto/store/v1/pack_format.h"

namespace tidegate {

// The largest step that an engine computes.
struct StepShape {
  uint32_t prompt_rows = 0;     // of prompt form
  uint32_t decode_rows = 0;     // of decode form
  uint32_t threads = 1;         // that compute
  uint64_t context_tokens = 0;  // the longest sequence
  uint64_t adapter_rank = 0;    // the largest rank of a matrix's adapters together; 0: none
};

// An upper bound, by what the memory is for. Bytes. It holds for every precision: reproducible
// requests are exact whatever the engine is, and exact operands take the most.
struct StepWorkspace {
  uint64_t rows = 0;       // activations and bookkeeping of all rows
  uint64_t products = 0;   // prompt rows, packed for products
  uint64_t attention = 0;  // scores, by thread
  uint64_t lanes = 0;      // masks, units and sums of decode rows
  uint64_t units = 0;      // units of a batch, masks
  uint64_t streamed = 0;   // streamed blocks that wait for their turn in a prompt
  uint64_t logits = 0;     // and what a token is drawn from
  uint64_t experts = 0;    // rows by expert, of mixtures

  uint64_t bytes() const {
    return rows + products + attention + lanes + units + streamed + logits + experts;
  }
};

StepWorkspace WorkspaceOf(const store::v1::Manifest& manifest, const PackGeometry& geometry,
                          const StepShape& shape);

// Workspace that no reserve has to hold: what small models take, whose budget is a few MiB.
inline constexpr uint64_t kWorkspaceBesideReserve = 24u << 20;

// The part of a workspace that is taken out of the reserve.
inline uint64_t WorkspaceFromReserve(uint64_t workspace_bytes) {
  return workspace_bytes > kWorkspaceBesideReserve ? workspace_bytes - kWorkspaceBesideReserve : 0;
}

// Sequences that run at a time unless somebody says how many: what so many pages of the KV cache
// and threads carry. At least 1.
uint32_t SequencesCarried(uint64_t kv_pages, uint32_t threads);

// Rows of decode form in one step where so many sequences run at a time: one of each, or of a
// sequence that was preempted and is computed again, more.
uint32_t DecodeRowsMax(uint32_t sequences_max);

}  // namespace tidegate
