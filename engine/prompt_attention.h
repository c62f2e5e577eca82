// Causal softmax attention, over all positions or a window of them, of many tokens at once: what a
// prompt is computed with. Queries that share a key/value head are multiplied with all its keys,
// and the weights that come out with all its values, by kernels/matmul.h in f32. Owned and called
// by one thread; uses the pool's inside.
//
// The result for one token does not depend, bitwise, on the other tokens of the call: positions
// that it does not see get the weight 0.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/kernels/kernels.h"
#include "engine/kernels/matmul.h"
#include "engine/kv/kv_cache.h"
#include "engine/model.h"
#include "engine/thread_pool.h"

namespace tidegate {

class PromptAttention {
 public:
  // Pointers are not owned.
  PromptAttention(const ModelConfig* config, const Kernels* kernels, ThreadPool* pool);

  // out[t] = softmax(query[t] . keys * attention_scale) . values over the positions up to
  // first_position + t that the layer's window shows; scores are capped where the model says so.
  // query and out [tokens, query_heads, head_size]. REQUIRES: the cache holds
  // the rows of every position below first_position + tokens.
  void Run(const KvCache& kv, uint32_t layer, uint32_t first_position, uint32_t tokens,
           const float* query, float* out);

 private:
  // One call of Run.
  struct Call {
    const KvCache* kv;
    uint32_t layer, first_position, tokens;
    const float* query;
    float* out;
  };
  // Some tokens of the call and one key/value head.
  struct Item {
    uint32_t head, first, tokens;
  };
  // Positions [first, end) that some tokens see.
  struct Span {
    uint32_t first, end;
  };
  // Scratch of one thread.
  struct Scratch {
    std::vector<float> query, out;  // [queries, head_size]
    std::vector<float> scores;      // [queries, positions]
    // Some rows, gathered from pages and laid out as static_rows.h says: of keys, and of values
    // whose own layout is not that of unit columns.
    std::vector<std::byte> rows;
    std::vector<const uint8_t*> values;  // columns
    std::vector<std::byte> packed;
  };

  void RunItem(const Call& call, const Item& item, Scratch& scratch) const;
  // What tokens [first, first + tokens) of the call see.
  Span Seen(const Call& call, uint32_t first, uint32_t tokens) const;
  void Multiply(const KvView& kv, Span span, size_t queries, Scratch& scratch) const;
  void Score(const Call& call, const Item& item, Span span, Scratch& scratch) const;
  void Mix(const Call& call, const Item& item, Span span, Scratch& scratch) const;
  void FindValues(const KvView& kv, Span span, Scratch& scratch) const;
  const void* Pack(const TokensView& x, Scratch& scratch) const;

  const ModelConfig& config_;
  const Kernels* const kernels_;
  const MatmulKernels& matmul_;
  ThreadPool* const pool_;
  const uint32_t group_;  // query heads per key/value head
  std::vector<Scratch> scratch_;
};

}  // namespace tidegate
