// How the engine divides its reserve, the part of the store's budget that is its own: adapters, the
// workspace of its steps (proto/store/v1/step_workspace.h), and pages of keys and values. Pure.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "proto/store/v1/step_workspace.h"

namespace tidegate {

struct MemoryRequest {
  uint64_t reserve_bytes = 0;   // of the store's budget
  uint64_t adapter_bytes = 0;   // of all factors
  uint64_t adapter_rank = 0;    // see StepShape
  uint64_t page_bytes = 0;      // of kKvPageTokens positions; at least 1
  uint32_t threads = 1;         // that compute
  uint32_t context_tokens = 0;  // of one sequence, wanted; at least 1
  // Each may be 0: then it is chosen.
  uint32_t max_running = 0;
  uint32_t prompt_rows = 0;
  uint64_t kv_tokens = 0;  // over all sequences; given, it need not fit into the reserve
};

struct MemoryPlan {
  uint32_t sequences_max = 0;                         // that run at a time
  uint32_t prompt_rows_max = 0, decode_rows_max = 0;  // of a step
  uint64_t kv_tokens = 0;                             // over all sequences
  StepWorkspace workspace;
  // What is taken beyond the reserve and kWorkspaceBesideReserve: 0 unless kv_tokens was given.
  uint64_t beyond_bytes = 0;
};

// Where the reserve has no room for the workspace beside a whole context, what is to be chosen is
// lowered: sequences at a time first, then prompt rows. FAILED_PRECONDITION names the reserve, what
// the workspace and adapters take, and what to change, if that is not enough for any page.
absl::StatusOr<MemoryPlan> PlanMemory(const store::v1::Manifest& manifest,
                                      const PackGeometry& geometry, const MemoryRequest& request);

}  // namespace tidegate
