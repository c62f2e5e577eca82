#include "packer/input_moments.h"

#include <algorithm>

#include "base/check.h"
#include "base/status_macros.h"
#include "packer/parallel_for.h"

namespace tidegate {
namespace {

constexpr uint32_t kTokensAtOnce = 4;  // rows of x that one walk over the sums adds

// sums[i, j] += sum over tokens of x[t, i] x[t, j] for first <= i <= j < first + size.
void AddBlock(const float* x, uint64_t stride, uint32_t tokens, uint32_t first, uint32_t size,
              float* sums, uint32_t sums_stride) {
  for (uint32_t t = 0; t < tokens; t += kTokensAtOnce) {
    const uint32_t n = std::min(kTokensAtOnce, tokens - t);
    const float* rows[kTokensAtOnce];
    for (uint32_t k = 0; k < kTokensAtOnce; ++k) {
      rows[k] = x + (t + std::min(k, n - 1)) * stride + first;
    }
    for (uint32_t i = 0; i < size; ++i) {
      float factors[kTokensAtOnce] = {};
      for (uint32_t k = 0; k < n; ++k) factors[k] = rows[k][i];
      float* out = sums + uint64_t{i} * sums_stride;
      for (uint32_t j = i; j < size; ++j) {
        out[j] += (factors[0] * rows[0][j] + factors[1] * rows[1][j]) +
                  (factors[2] * rows[2][j] + factors[3] * rows[3][j]);
      }
    }
  }
}

}  // namespace

InputMoments::InputMoments(uint32_t inputs, uint32_t block)
    : inputs_(inputs), block_(std::min(block, inputs)), sums_(uint64_t{inputs} * block_) {
  CHECK(block >= 1);
}

void InputMoments::Add(const float* x, uint32_t tokens) {
  tokens_ += tokens;
  const uint32_t blocks = (inputs_ + block_ - 1) / block_;
  const absl::Status added = ParallelFor(blocks, PackThreads(), [&](uint64_t b) {
    const auto first = static_cast<uint32_t>(b * block_);
    const uint32_t size = std::min(block_, inputs_ - first);
    AddBlock(x, inputs_, tokens, first, size, sums_.data() + uint64_t{first} * block_, block_);
    return absl::OkStatus();
  });
  CHECK(added.ok());
}

uint32_t MomentBlock(uint32_t layers, uint32_t hidden_size, uint32_t intermediate_size,
                     uint64_t bytes) {
  constexpr uint32_t kStep = 64, kWidest = 1024;
  const uint64_t inputs = (uint64_t{hidden_size} + intermediate_size) * layers;
  uint32_t block = kWidest;
  while (block > kStep && InputMoments::Bytes(inputs, block) > bytes) block -= kStep;
  return block;
}

}  // namespace tidegate
