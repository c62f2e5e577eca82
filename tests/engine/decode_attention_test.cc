#include "engine/decode_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

namespace tidegate {
namespace {

constexpr uint32_t kLayers = 2, kQueryHeads = 6, kKvHeads = 3, kHeadSize = 40;
constexpr uint32_t kQuerySize = kQueryHeads * kHeadSize;

ModelConfig Config() {
  ModelConfig config;
  config.layer_count = kLayers;
  config.query_heads = kQueryHeads;
  config.kv_heads = kKvHeads;
  config.head_size = kHeadSize;
  config.attention_scale = 0.2f;
  config.windows = {0, 50};
  return config;
}

// A sequence of random keys and values, which are kept as floats beside the cache.
struct TestSequence {
  TestSequence(const ModelConfig& config, uint32_t tokens, bool half, std::mt19937& random)
      : kv(config, tokens, half) {
    std::normal_distribution<float> normal;
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      for (uint32_t p = 0; p < tokens; ++p) {
        std::vector<float> key(kKvHeads * kHeadSize), value(key.size());
        for (float& x : key) x = normal(random);
        for (float& x : value) x = normal(random);
        EXPECT_TRUE(kv.Store(BestKernels(Precision::kExact), layer, p, key.data(), value.data()));
        keys[layer].push_back(std::move(key));
        values[layer].push_back(std::move(value));
      }
    }
    kv.set_size(tokens);
  }
  KvCache kv;
  std::vector<std::vector<float>> keys[kLayers], values[kLayers];  // by position
};

// The formula in double.
std::vector<double> Exact(const ModelConfig& config, const TestSequence& sequence, uint32_t layer,
                          uint32_t position, const float* query) {
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

class DecodeAttentionTest : public testing::Test {
 protected:
  // Rows at the given positions of sequences that are long enough; queries are random.
  struct Rows {
    std::vector<std::unique_ptr<TestSequence>> sequences;
    std::vector<uint32_t> positions;
    std::vector<float> queries;
  };

  Rows MakeRows(std::vector<uint32_t> positions, bool half) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    Rows rows;
    for (const uint32_t position : positions) {
      rows.sequences.push_back(std::make_unique<TestSequence>(config_, position + 1, half, random));
    }
    rows.positions = std::move(positions);
    rows.queries.resize(rows.positions.size() * kQuerySize);
    for (float& x : rows.queries) x = normal(random);
    return rows;
  }

  std::vector<float> Attend(const Rows& rows, uint32_t layer, size_t first, size_t count,
                            uint32_t threads) {
    ThreadPool pool(threads);
    DecodeAttention attention(&config_, &BestKernels(Precision::kExact), &pool);
    std::vector<float> out(count * kQuerySize, NAN);
    std::vector<AttentionRow> list;
    for (size_t r = 0; r < count; ++r) {
      list.push_back({.kv = &rows.sequences[first + r]->kv,
                      .position = rows.positions[first + r],
                      .query = rows.queries.data() + (first + r) * kQuerySize,
                      .out = out.data() + r * kQuerySize});
    }
    attention.Run(layer, list);
    return out;
  }

  ModelConfig config_ = Config();
};

// Long enough together that threads share them, unlike, and more or fewer than there are threads.
const std::vector<uint32_t> kPositions = {0, 700, 3, 49, 50, 51, 1, 300, 0, 64};

TEST_F(DecodeAttentionTest, IsSoftmaxAttentionWithWindowsAndCaps) {
  for (const bool half : {false, true}) {
    for (const float cap : {0.0f, 1.5f}) {
      config_.attention_cap = cap;
      const Rows rows = MakeRows(kPositions, half);
      for (uint32_t layer = 0; layer < kLayers; ++layer) {
        const std::vector<float> out = Attend(rows, layer, 0, kPositions.size(), 2);
        for (size_t r = 0; r < kPositions.size(); ++r) {
          const std::vector<double> exact = Exact(config_, *rows.sequences[r], layer, kPositions[r],
                                                  rows.queries.data() + r * kQuerySize);
          for (size_t i = 0; i < kQuerySize; ++i) {
            // Keys and values that were rounded to halves err by 2^-11 of themselves.
            ASSERT_NEAR(out[r * kQuerySize + i], exact[i], half ? 5e-3 : 2e-5)
                << "layer " << layer << " row " << r << " at " << i;
          }
        }
      }
    }
  }
}

TEST_F(DecodeAttentionTest, CompanyAndThreadsChangeNoBit) {
  const Rows rows = MakeRows(kPositions, true);
  for (uint32_t layer = 0; layer < kLayers; ++layer) {
    std::vector<float> alone;
    for (size_t r = 0; r < kPositions.size(); ++r) {
      const std::vector<float> row = Attend(rows, layer, r, 1, 1);
      alone.insert(alone.end(), row.begin(), row.end());
    }
    for (const uint32_t threads : {1, 2, 3, 7}) {
      EXPECT_EQ(Attend(rows, layer, 0, kPositions.size(), threads), alone) << threads;
      const std::vector<float> some = Attend(rows, layer, 1, 4, threads);
      EXPECT_TRUE(std::equal(some.begin(), some.end(), alone.begin() + kQuerySize)) << threads;
    }
  }
}

TEST_F(DecodeAttentionTest, RowsOfOneSequenceSeeOnlyWhatLiesBeforeThem) {
  std::mt19937 random(3);
  const TestSequence sequence(config_, 400, true, random);
  const std::vector<float> query(kQuerySize, 0.3f);
  ThreadPool pool(2);
  DecodeAttention attention(&config_, &BestKernels(Precision::kExact), &pool);
  std::vector<float> together(400 * kQuerySize), alone(kQuerySize);
  std::vector<AttentionRow> rows;
  for (uint32_t p = 0; p < 400; ++p) {
    rows.push_back({&sequence.kv, p, query.data(), together.data() + p * kQuerySize});
  }
  attention.Run(0, rows);
  for (const uint32_t p : {0u, 1u, 57u, 399u}) {
    const AttentionRow row = {&sequence.kv, p, query.data(), alone.data()};
    attention.Run(0, {&row, 1});
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + p * kQuerySize)) << p;
  }
}

TEST_F(DecodeAttentionTest, NoRowsAreNoWork) {
  ThreadPool pool(2);
  DecodeAttention attention(&config_, &BestKernels(Precision::kExact), &pool);
  attention.Run(0, {});
}

}  // namespace
}  // namespace tidegate
