#include "engine/single_sequence.h"

#include <gtest/gtest.h>

#include "tests/engine/local_engine.h"

namespace tidegate::single_sequence_test {

TEST(SingleSequenceTest, ChunksAreOfOneLength) {
  EXPECT_EQ(ChunkTokens(1, 16), 1u);
  EXPECT_EQ(ChunkTokens(16, 16), 16u);
  EXPECT_EQ(ChunkTokens(17, 16), 9u);
  EXPECT_EQ(ChunkTokens(33, 16), 11u);
}

TEST(SingleSequenceTest, APromptInChunksIsThePromptAtOnce) {
  LocalStore store;
  LocalDecoder local(store);
  const std::vector<TokenId> tokens = {1, 270, 280, 5, 300, 17, 270};
  std::vector<float> whole(local.model->config.embedding_rows), chunks(whole.size());
  PassAccounts accounts;
  KvPool pool = KvPool::ForTokens(local.model->config, KvType::kF32, 2 * kKvPageTokens);
  KvCache one(&pool, 8), other(&pool, 8);
  ASSERT_TRUE(AppendPrompt(*local.decoder, one, tokens, Precision::kExact, whole, accounts).ok());
  std::vector<uint32_t> positions;
  ASSERT_TRUE(AppendPromptInChunks(
                  *local.decoder, other, tokens, 3, Precision::kExact, chunks, accounts,
                  [&](uint32_t position, std::span<float>) { positions.push_back(position); })
                  .ok());
  EXPECT_EQ(whole, chunks);
  EXPECT_EQ(positions, (std::vector<uint32_t>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(other.size(), 7u);
}

}  // namespace tidegate::single_sequence_test
