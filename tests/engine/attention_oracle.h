// What the tests of both forms of attention share: sequences of random keys and values, and the
// formula in double. Of one test, on one thread.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "engine/kv/kv_cache.h"
#include "engine/model.h"

namespace tidegate {

inline constexpr uint32_t kAttentionLayers = 2, kQueryHeads = 6, kKvHeads = 3, kHeadSize = 64;
inline constexpr uint32_t kQuerySize = kQueryHeads * kHeadSize;

// The second layer has a window of 50.
inline ModelConfig AttentionConfig() {
  ModelConfig config;
  config.layer_count = kAttentionLayers;
  config.query_heads = kQueryHeads;
  config.kv_heads = kKvHeads;
  config.head_size = kHeadSize;
  config.attention_scale = 0.2f;
  config.windows = {0, 50};
  return config;
}

// Numbers that are stored as they are: random ones, rounded.
inline std::vector<float> StoredRow(KvType type, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> row(kKvHeads * kHeadSize);
  for (float& x : row) x = normal(random);
  std::vector<uint8_t> stored(KvRowBytes(type, row.size()));
  const Kernels& kernels = ScalarKernels(Precision::kExact);
  if (type == KvType::kF32) return row;
  if (type == KvType::kF16) {
    kernels.to_half(row.data(), row.size(), reinterpret_cast<uint16_t*>(stored.data()));
  } else {
    kernels.to_q8(row.data(), row.size(), stored.data());
  }
  DecodeGgmlRow(KvRowType(type), stored.data(), row.size(), row.data());
  return row;
}

struct TestSequence {
  TestSequence(const ModelConfig& config, uint32_t tokens, KvType type, std::mt19937& random)
      : pool(KvPool::ForTokens(config, type, tokens)), kv(&pool, tokens) {
    EXPECT_TRUE(kv.Grow(tokens).ok());
    for (uint32_t layer = 0; layer < kAttentionLayers; ++layer) {
      for (uint32_t p = 0; p < tokens; ++p) {
        std::vector<float> key = StoredRow(type, random), value = StoredRow(type, random);
        EXPECT_TRUE(kv.Store(BestKernels(Precision::kExact), layer, p, key.data(), value.data()));
        keys[layer].push_back(std::move(key));
        values[layer].push_back(std::move(value));
      }
    }
    kv.set_size(tokens);
  }
  KvPool pool;
  KvCache kv;
  std::vector<std::vector<float>> keys[kAttentionLayers], values[kAttentionLayers];  // by position
};

// softmax(query . keys * scale) . values of one token, [query_heads, head_size].
inline std::vector<double> ExactAttention(const ModelConfig& config, const TestSequence& sequence,
                                          uint32_t layer, uint32_t position, const float* query) {
  std::vector<double> out(kQuerySize);
  const uint32_t window = config.windows[layer];
  for (uint32_t head = 0; head < kQueryHeads; ++head) {
    const size_t at = head / (kQueryHeads / kKvHeads) * kHeadSize;
    double total = 0;
    for (uint32_t p = 0; p <= position; ++p) {
      if (window != 0 && p + window <= position) continue;
      double score = 0;
      for (uint32_t i = 0; i < kHeadSize; ++i) {
        score += query[head * kHeadSize + i] * double{sequence.keys[layer][p][at + i]};
      }
      score *= config.attention_scale;
      if (config.attention_cap != 0) {
        score = config.attention_cap * std::tanh(score / config.attention_cap);
      }
      const double weight = std::exp(score);
      total += weight;
      for (uint32_t i = 0; i < kHeadSize; ++i) {
        out[head * kHeadSize + i] += weight * sequence.values[layer][p][at + i];
      }
    }
    for (uint32_t i = 0; i < kHeadSize; ++i) out[head * kHeadSize + i] /= total;
  }
  return out;
}

// How far attention may be from it, whatever the type: sequences hold what it can hold.
inline constexpr double kAttentionTolerance = 2e-5;

}  // namespace tidegate
