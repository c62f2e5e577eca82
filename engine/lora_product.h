// y += B (A x) of LoRA factors (lora.h), for one token or for many, on the pool's threads. Owned by
// one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/kernels/kernels.h"
#include "engine/lora.h"
#include "engine/matmul.h"
#include "engine/thread_pool.h"

namespace tidegate {

class LoraProduct {
 public:
  // `pool` is not owned.
  explicit LoraProduct(ThreadPool* pool) : pool_(pool), matmul_(pool) {}

  // y[t] += B (A x[t]), x [tokens, in], y [tokens, out]; nothing if the rank is 0. `many`: the form
  // for prompts, in which the result for one token does not depend on the others, bitwise, but
  // differs from that for one token by rounding. REQUIRES: many or tokens == 1.
  void Add(const LoraFactors& factors, const float* x, uint32_t tokens, bool many,
           Precision precision, float* y);

 private:
  ThreadPool* const pool_;
  Matmul matmul_;
  std::vector<float> inner_;             // A x, [tokens, rank]
  std::vector<const uint8_t*> columns_;  // of B
};

}  // namespace tidegate
