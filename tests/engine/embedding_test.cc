#include "engine/embedding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/units.h"
#include "tests/engine/local_engine.h"

namespace tidegate::embedding_test {

LocalStoreOptions Options(bool tied, uint64_t budget) {
  LocalStoreOptions options;
  options.model = {.matrices = GgmlType::kQ8_0, .tied = tied};
  options.store.memory_budget_bytes = budget;
  options.store.engine_reserve_bytes = 0;
  options.store.staging_bytes = 64 * kKiB;
  return options;
}

// A budget that holds nearly everything.
uint64_t ShortBudget(bool tied) {
  return LocalStore(Options(tied, kGiB)).store().info().region_bytes;
}

const store::v1::StaticTensor& Find(const WeightClient& client, const std::string& name) {
  for (const store::v1::StaticTensor& tensor : client.manifest().static_tensors()) {
    if (tensor.name() == name) return tensor;
  }
  CHECK(false);
}

std::vector<float> Logits(LocalDecoder& local, const std::vector<TokenId>& tokens) {
  KvPool pool = KvPool::ForTokens(local.model->config, KvType::kF32, 16);
  KvCache kv(&pool, 16);
  PassAccounts accounts;
  std::vector<float> logits(local.model->config.embedding_rows);
  EXPECT_TRUE(AppendPrompt(*local.decoder, kv, tokens, Precision::kExact, logits, accounts).ok());
  EXPECT_TRUE(
      AppendToken(*local.decoder, kv, 280, nullptr, Precision::kExact, logits, accounts).ok());
  return logits;
}

TEST(EmbeddingTest, StaysOnFlashWhereMemoryIsShortAndGivesTheSame) {
  const std::vector<TokenId> tokens = {1, 270, 319, 0, 270, 17};
  const LocalStore roomy(Options(false, kGiB));
  const LocalStore tight(Options(false, ShortBudget(false)));
  LocalDecoder in_memory(roomy), on_flash(tight);
  EXPECT_TRUE(in_memory.client->InRegion(Find(*in_memory.client, "token_embd.weight")));
  EXPECT_FALSE(on_flash.client->InRegion(Find(*on_flash.client, "token_embd.weight")));
  EXPECT_TRUE(on_flash.client->InRegion(Find(*on_flash.client, "output.weight")));
  // A row is 64 codes and two scales, padded.
  EXPECT_EQ(roomy.store().info().static_bytes - tight.store().info().static_bytes, 320u * 80);
  EXPECT_EQ(Logits(on_flash, tokens), Logits(in_memory, tokens));
}

TEST(EmbeddingTest, RefusesIdsWithoutARow) {
  const LocalStore store;
  LocalDecoder local(store);
  KvPool pool = KvPool::ForTokens(local.model->config, KvType::kF32, 16);
  KvCache kv(&pool, 16);
  PassAccounts accounts;
  for (const TokenId id : {-1, 320}) {
    const std::vector<TokenId> tokens = {1, id};
    EXPECT_EQ(AppendPrompt(*local.decoder, kv, tokens, Precision::kExact, {}, accounts).code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(EmbeddingTest, OneThatIsTheHeadStaysInMemory) {
  const LocalStore tight(Options(true, ShortBudget(true)));
  LocalDecoder local(tight);
  EXPECT_TRUE(local.client->InRegion(Find(*local.client, "token_embd.weight")));
}

TEST(EmbeddingTest, ADamagedRowIsNamedAndTheOthersAreGood) {
  const LocalStore tight(Options(false, ShortBudget(false)));
  LocalDecoder local(tight);
  const auto fd = UniqueFd::Open(tight.pack_path(), O_RDWR);
  ASSERT_TRUE(fd.ok());
  PackHeader header;
  ASSERT_TRUE(ReadAt(fd->get(), 0, &header, sizeof(header)).ok());
  const store::v1::StaticTensor& tensor = Find(*local.client, "token_embd.weight");
  const uint64_t at = header.static_offset + tensor.offset() + 270 * (tensor.bytes() / 320) + 5;
  char byte;
  ASSERT_TRUE(ReadAt(fd->get(), at, &byte, 1).ok());
  byte ^= 4;
  ASSERT_TRUE(WriteAt(fd->get(), at, &byte, 1).ok());

  std::vector<float> out(3 * 64);
  const std::vector<TokenId> with = {1, 270, 5}, without = {1, 271, 5};
  const absl::Status damaged = local.model->embedding.Decode(with, out.data());
  EXPECT_EQ(damaged.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(damaged.message()), testing::HasSubstr("row 270 of token_embd.weight"));
  EXPECT_TRUE(local.model->embedding.Decode(without, out.data()).ok());
}

}  // namespace tidegate::embedding_test
