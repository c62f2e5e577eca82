// What an engine is started with. Plain data: it does not change while the engine lives, so that
// any thread may read it.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/generation.h"
#include "engine/kernels/kv_type.h"
#include "engine/kernels/precision.h"
#include "proto/gguf/lora_file.h"

namespace tidegate {

// What the server allows and assumes.
struct PruningBounds {
  PruningParams defaults;
  float density_min = 0.1f, density_max = 1.0f;
  float gamma_min = 0.0f, gamma_max = 1.0f;
};

// How requests are pruned that leave it to the server: by a point of the profile's ladder
// (proto/store/v1/profile.proto) instead of PruningBounds::defaults. Needs a profile.
struct SteeringOptions {
  std::string profile = {};             // file; empty: the pack's own
  double target_tokens_per_second = 0;  // of each stream; 0: none
  // Alone: the fastest point within it. With a target: no point beyond it is used.
  std::optional<double> max_perplexity_increase = {};  // a share, 0.05 is 5 %

  bool wanted() const { return target_tokens_per_second > 0 || max_perplexity_increase; }
};

struct EngineOptions {
  std::string store_socket;
  std::vector<LoraSource> adapters;  // used beside the weights; read at every attach
  uint32_t context_tokens = 0;       // per request; 0: the model's trained context, at most 4096
  uint32_t max_running = 0;          // 0: what KV cache and threads carry
  uint32_t max_waiting = 64;
  uint64_t kv_tokens = 0;           // KV capacity over all requests; 0: what the store's budget
                                    // reserves for it, at least one context
  KvType kv_type = KvType::kF16;    // how keys and values are kept
  uint64_t max_waiting_tokens = 0;  // of prompts that wait; 0: any number
  bool prefix_cache = true;         // prompts that begin alike are computed once
  // Masks of cache-aware rows count as resident what rows before them in the step want: it is
  // read anyway (docs/evaluation.md).
  bool share_reads = false;
  // Prompt tokens of a step at most: weights are streamed and decoded once per chunk. 0: 256, or
  // what the store's budget reserves memory for (memory_plan.h).
  uint32_t prefill_chunk_tokens = 0;
  // What a step with prompts should take while others decode; 0: as long as it takes.
  std::chrono::nanoseconds step_time = std::chrono::milliseconds(500);
  Precision precision = Precision::kFast;
  uint32_t threads = 0;  // 0: one per core
  bool overlap = true;   // add resident columns while missing ones are in flight
  PruningBounds pruning;
  SteeringOptions steering;
  std::chrono::milliseconds attach_timeout{0};  // Create() waits this long for the store; 0: it
                                                // returns at once and attaches in the background
  // Without a sign of life from the store or its drive for stall_time, the engine is not ready
  // until there is one; after stall_limit, requests end with UNAVAILABLE.
  std::chrono::nanoseconds stall_time = std::chrono::seconds(5);
  std::chrono::nanoseconds stall_limit = std::chrono::seconds(60);
};

}  // namespace tidegate
