#include "engine/decode_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

#include "tests/engine/attention_oracle.h"

namespace tidegate::decode_attention_test {

class DecodeAttentionTest : public testing::Test {
 protected:
  // Rows at the given positions of sequences that are long enough; queries are random.
  struct Rows {
    std::vector<std::unique_ptr<TestSequence>> sequences;
    std::vector<uint32_t> positions;
    std::vector<float> queries;
  };

  Rows MakeRows(std::vector<uint32_t> positions, KvType type) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    Rows rows;
    for (const uint32_t position : positions) {
      rows.sequences.push_back(std::make_unique<TestSequence>(config_, position + 1, type, random));
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

  ModelConfig config_ = AttentionConfig();
};

// Long enough together that threads share them, unlike, and more or fewer than there are threads.
const std::vector<uint32_t> kPositions = {0, 700, 3, 49, 50, 51, 1, 300, 0, 64};

TEST_F(DecodeAttentionTest, IsSoftmaxAttentionWithWindowsAndCaps) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8}) {
    for (const float cap : {0.0f, 1.5f}) {
      config_.attention_cap = cap;
      const Rows rows = MakeRows(kPositions, type);
      for (uint32_t layer = 0; layer < kAttentionLayers; ++layer) {
        const std::vector<float> out = Attend(rows, layer, 0, kPositions.size(), 2);
        for (size_t r = 0; r < kPositions.size(); ++r) {
          const std::vector<double> exact =
              ExactAttention(config_, *rows.sequences[r], layer, kPositions[r],
                             rows.queries.data() + r * kQuerySize);
          for (size_t i = 0; i < kQuerySize; ++i) {
            ASSERT_NEAR(out[r * kQuerySize + i], exact[i], kAttentionTolerance)
                << "layer " << layer << " row " << r << " at " << i;
          }
        }
      }
    }
  }
}

TEST_F(DecodeAttentionTest, CompanyAndThreadsChangeNoBit) {
  for (const KvType type : {KvType::kF16, KvType::kQ8}) {
    const Rows rows = MakeRows(kPositions, type);
    for (uint32_t layer = 0; layer < kAttentionLayers; ++layer) {
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
}

TEST_F(DecodeAttentionTest, RowsOfOneSequenceSeeOnlyWhatLiesBeforeThem) {
  std::mt19937 random(3);
  const TestSequence sequence(config_, 400, KvType::kF16, random);
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

}  // namespace tidegate::decode_attention_test
