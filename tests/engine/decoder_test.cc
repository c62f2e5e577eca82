#include "engine/decoder.h"

#include <gtest/gtest.h>

#include "tests/engine/local_engine.h"

namespace tidegate {
namespace {

// Logits after `tokens`, the first `prefilled` of them in pieces of `piece`, the others step by
// step.
std::vector<float> LogitsOf(const LocalStore& store, const std::vector<TokenId>& tokens,
                            size_t prefilled, size_t piece, uint32_t threads,
                            bool half_kv = false) {
  LocalDecoder local(store, threads, true, 16);
  KvCache kv(local.model->config, static_cast<uint32_t>(tokens.size()), half_kv);
  std::vector<float> logits(local.model->config.vocab_size);
  MlpAccounts accounts;
  for (size_t at = 0; at < prefilled; at += piece) {
    const size_t count = std::min(piece, prefilled - at);
    CHECK(local.decoder->Prefill(kv, {tokens.data() + at, count}, logits, accounts).ok());
  }
  for (size_t at = prefilled; at < tokens.size(); ++at) {
    CHECK(local.decoder->Step(kv, tokens[at], nullptr, logits, accounts).ok());
  }
  EXPECT_EQ(kv.size(), tokens.size());
  return logits;
}

TEST(DecoderTest, PrefillInAnyPiecesEqualsStepByStepBitwise) {
  for (const bool tied : {false, true}) {
    for (const GgmlType type : {GgmlType::kF32, GgmlType::kF16, GgmlType::kQ8_0}) {
      LocalStore store({.model = {.matrices = type, .tied = tied, .rope_freqs = tied},
                        .pack = {.units = UnitEncoding::kQ8},
                        .store = {}});
      const std::vector<TokenId> tokens = {1, 270, 280, 5, 300, 17, 270, 263, 262, 299, 4};
      const std::vector<float> stepped = LogitsOf(store, tokens, 0, 1, 1);
      EXPECT_EQ(LogitsOf(store, tokens, 11, 11, 1), stepped);
      EXPECT_EQ(LogitsOf(store, tokens, 11, 4, 2), stepped);
      EXPECT_EQ(LogitsOf(store, tokens, 7, 3, 1), stepped);
    }
  }
}

TEST(DecoderTest, HalfKvIsCloseToSingle) {
  LocalStore store;
  const std::vector<TokenId> tokens = {1, 270, 280, 5, 300, 17, 270};
  const std::vector<float> single = LogitsOf(store, tokens, 7, 7, 1, false);
  const std::vector<float> half = LogitsOf(store, tokens, 7, 7, 1, true);
  EXPECT_NE(single, half);
  for (size_t i = 0; i < single.size(); ++i) ASSERT_NEAR(single[i], half[i], 0.05);
}

TEST(DecoderTest, LogitsOfEveryPromptPositionAreThoseOfTheShorterPrompts) {
  LocalStore store;
  LocalDecoder local(store);
  const std::vector<TokenId> tokens = {1, 270, 280, 5, 300};
  KvCache kv(local.model->config, 8, false);
  MlpAccounts accounts;
  std::vector<std::vector<float>> rows;
  ASSERT_TRUE(local.decoder
                  ->Prefill(kv, tokens, {}, accounts,
                            [&](uint32_t position, std::span<float> logits) {
                              EXPECT_EQ(position, rows.size());
                              rows.emplace_back(logits.begin(), logits.end());
                            })
                  .ok());
  ASSERT_EQ(rows.size(), 5u);
  for (size_t n = 1; n <= 5; ++n) {
    EXPECT_EQ(
        LogitsOf(store, {tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(n)}, n, 16, 1),
        rows[n - 1]);
  }
}

TEST(DecoderTest, AFailedPassLeavesTheSequenceAsItWas) {
  LocalStore store;
  LocalDecoder local(store);
  KvCache kv(local.model->config, 8, false);
  MlpAccounts accounts;
  const std::vector<TokenId> tokens = {1, 270};
  ASSERT_TRUE(local.decoder->Prefill(kv, tokens, {}, accounts).ok());
  store.Stop();
  EXPECT_EQ(local.decoder->Step(kv, 5, nullptr, {}, accounts).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(kv.size(), 2u);
}

}  // namespace
}  // namespace tidegate
