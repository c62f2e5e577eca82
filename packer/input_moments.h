// What a calibration text says about the inputs of a matrix: sums of x_i x_j over its tokens, for
// inputs i and j of the same block of neighbours. Whole tables would take the square of the width
// (0.8 GB for 14,336 inputs); blocks bound that, and error_feedback.h needs no more than blocks.
// Thread-compatible.
#pragma once

#include <cstdint>
#include <vector>

namespace tidegate {

class InputMoments {
 public:
  InputMoments() = default;  // of nothing
  // Blocks of `block` inputs, the last one perhaps smaller. REQUIRES: block >= 1.
  InputMoments(uint32_t inputs, uint32_t block);

  // Adds tokens, x [tokens, inputs]. The sums depend on the tokens and their order alone.
  void Add(const float* x, uint32_t tokens);

  uint32_t inputs() const { return inputs_; }
  uint32_t block() const { return block_; }
  uint64_t tokens() const { return tokens_; }

  // Sum of x_i x_j. REQUIRES: i and j are inputs of one block.
  float At(uint32_t i, uint32_t j) const {
    return i <= j ? sums_[uint64_t{i} * block_ + j % block_] : At(j, i);
  }

  static uint64_t Bytes(uint64_t inputs, uint32_t block) { return inputs * block * sizeof(float); }

 private:
  uint32_t inputs_ = 0, block_ = 0;
  uint64_t tokens_ = 0;
  std::vector<float> sums_;  // [inputs, block]; only j >= i is kept up
};

// Of one layer: what goes into gate and up, and what goes into down.
struct LayerMoments {
  InputMoments input, hidden;
};

// Blocks for a model of this shape that keep all moments within `bytes`: the widest of 1,024, 960,
// ... 64 inputs that fits; 64 if none does.
uint32_t MomentBlock(uint32_t layers, uint32_t hidden_size, uint32_t intermediate_size,
                     uint64_t bytes);

}  // namespace tidegate
