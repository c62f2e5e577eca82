#include "engine/prompt_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/engine/attention_oracle.h"

namespace tidegate::prompt_attention_test {

class PromptAttentionTest : public testing::Test {
 protected:
  // Attention of `tokens` positions from `first` on, in pieces of at most `piece`.
  std::vector<float> Attend(const TestSequence& sequence, uint32_t layer, uint32_t first,
                            uint32_t tokens, uint32_t piece, uint32_t threads) {
    ThreadPool pool(threads);
    PromptAttention attention(&config_, &BestKernels(Precision::kExact), &pool);
    std::vector<float> out(size_t{tokens} * kQuerySize, NAN);
    for (uint32_t at = 0; at < tokens; at += piece) {
      attention.Run(sequence.kv, layer, first + at, std::min(piece, tokens - at),
                    queries_.data() + size_t{first + at} * kQuerySize,
                    out.data() + size_t{at} * kQuerySize);
    }
    return out;
  }

  void MakeQueries(uint32_t tokens, std::mt19937& random) {
    std::normal_distribution<float> normal;
    queries_.resize(size_t{tokens} * kQuerySize);
    for (float& x : queries_) x = normal(random);
  }

  ModelConfig config_ = AttentionConfig();
  std::vector<float> queries_;  // by position
};

TEST_F(PromptAttentionTest, IsSoftmaxAttentionWithWindowsAndCaps) {
  std::mt19937 random(1);
  constexpr uint32_t kTokens = 303;  // More than are laid out at once.
  MakeQueries(kTokens, random);
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8}) {
    const TestSequence sequence(config_, kTokens, type, random);
    for (const float cap : {0.0f, 1.5f}) {
      config_.attention_cap = cap;
      for (uint32_t layer = 0; layer < kAttentionLayers; ++layer) {
        const std::vector<float> out = Attend(sequence, layer, 0, kTokens, kTokens, 2);
        for (uint32_t p = 0; p < kTokens; ++p) {
          const std::vector<double> exact =
              ExactAttention(config_, sequence, layer, p, queries_.data() + p * kQuerySize);
          for (size_t i = 0; i < kQuerySize; ++i) {
            ASSERT_NEAR(out[p * kQuerySize + i], exact[i], kAttentionTolerance)
                << "layer " << layer << " position " << p << " at " << i;
          }
        }
      }
    }
  }
}

TEST_F(PromptAttentionTest, PiecesAndThreadsChangeNoBit) {
  std::mt19937 random(2);
  constexpr uint32_t kTokens = 150, kLong = 300;
  MakeQueries(kLong, random);
  for (const KvType type : {KvType::kF16, KvType::kQ8}) {
    const TestSequence sequence(config_, kLong, type, random);
    for (uint32_t layer = 0; layer < kAttentionLayers; ++layer) {
      const std::vector<float> whole = Attend(sequence, layer, 0, kTokens, kTokens, 1);
      for (const uint32_t piece : {1u, 7u, 32u, 100u}) {
        for (const uint32_t threads : {1u, 3u}) {
          EXPECT_EQ(Attend(sequence, layer, 0, kTokens, piece, threads), whole)
              << piece << " on " << threads;
        }
      }
      const std::vector<float> rest = Attend(sequence, layer, 97, kTokens - 97, kTokens, 2);
      EXPECT_TRUE(std::equal(rest.begin(), rest.end(), whole.begin() + 97 * kQuerySize));
      const std::vector<float> end = Attend(sequence, layer, 200, kLong - 200, kLong, 2);
      EXPECT_EQ(Attend(sequence, layer, 200, kLong - 200, 7, 1), end);
    }
  }
}

}  // namespace tidegate::prompt_attention_test
