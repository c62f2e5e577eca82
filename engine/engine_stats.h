// What an engine tells of itself while it works: counters and gauges, which are plain data, and an
// observer, which the decode thread calls.
#pragma once

#include <cstdint>

#include "engine/kv/prefix_stats.h"

namespace tidegate {

// What steering does now.
struct SteeringStats {
  uint32_t points = 0;    // of the ladder that may be used; 0: nothing is steered
  uint32_t position = 0;  // of the present point in the profile; 0: the most accurate
  double density = 0, gamma = 0;
  double predicted_perplexity_increase = 0;  // a share
  double target_tokens_per_second = 0;       // 0: none
  double tokens_per_second = 0;              // of each stream, of the last window; 0: not yet known
  uint64_t moves = 0;                        // since the engine attached
};

// Counters and gauges of the engine for metrics; cumulative since start.
struct EngineStats {
  bool attached = false;
  bool stalled = false;  // attached to a store that makes no progress
  uint64_t stalls = 0;   // how often that has begun
  bool draining = false;
  uint64_t reattached = 0;
  uint32_t running = 0;
  uint32_t waiting = 0;
  uint64_t prompt_tokens = 0;
  uint64_t generated_tokens = 0;
  uint64_t kv_tokens_used = 0;
  uint64_t kv_tokens_capacity = 0;
  double stall_seconds_prefill = 0;  // in steps without a row that decodes
  double stall_seconds_decode = 0;
  uint64_t steps = 0;        // passes of the decoder
  uint64_t decode_rows = 0;  // computed in them
  uint64_t prompt_rows = 0;
  double dense_instead_tokens = 0;  // see GenerationAccounts
  uint64_t preemptions = 0;         // sequences that lost their pages to others
  PrefixStats prefix;               // of the prefix cache, since the engine attached
  SteeringStats steering;
};

struct GenerationResult;

// Receives one call per event for histograms; called from the decode thread, must not block.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnFirstToken(double seconds_since_submit) = 0;
  virtual void OnTokenGap(double seconds) = 0;  // between tokens of one stream
  virtual void OnDecodedToken(uint64_t flash_bytes, double input_density,
                              double hidden_density) = 0;
  virtual void OnFinished(const GenerationResult& result) = 0;  // after the sink's OnDone
};

}  // namespace tidegate
