// Softmax attention of single tokens: the decode rows of a step, each over the keys and values of
// its own sequence. What a row gives depends, bitwise, on its own query and sequence alone, never
// on the rows beside it or on the number of threads. Prompts have their own order of sums
// (prompt_attention.h). Owned and called by one thread; uses the pool's threads inside.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kernels/kernels.h"
#include "engine/kv/kv_cache.h"
#include "engine/model.h"
#include "engine/thread_pool.h"

namespace tidegate {

// One token of one sequence. Pointers are not owned.
struct AttentionRow {
  const KvCache* kv;   // holds the keys and values of all positions up to and with `position`
  uint32_t position;   // of the token
  const float* query;  // [query_heads, head_size]
  float* out;          // the same; may not overlap a query
};

class DecodeAttention {
 public:
  // Pointers are not owned.
  DecodeAttention(const ModelConfig* config, const Kernels* kernels, ThreadPool* pool);

  // Per row: out = softmax(query . keys * attention_scale) . values, over the positions up to its
  // own that the window of `layer` shows; scores are capped where the model says so.
  void Run(uint32_t layer, std::span<const AttentionRow> rows);

 private:
  // The positions [first, end) that a token sees in a layer.
  struct Span {
    uint32_t first, end;
    uint32_t size() const { return end - first; }
  };

  Span Seen(uint32_t layer, uint32_t position) const;
  void RunHead(uint32_t layer, const AttentionRow& row, uint32_t head, float* scores) const;

  const ModelConfig& config_;
  const Kernels* const kernels_;
  ThreadPool* const pool_;
  // Row r begins at starts_[r]; a unit is one position that one query head looks at.
  std::vector<uint64_t> starts_;
  std::vector<std::vector<float>> scores_;  // by share of the work, [positions] of one head
};

}  // namespace tidegate
