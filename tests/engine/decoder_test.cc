#include "engine/decoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error_reason.h"
#include "tests/engine/local_engine.h"

namespace tidegate::decoder_test {

// Logits after `tokens`, the first `prefilled` of them in pieces of `piece`, the others step by
// step.
std::vector<float> LogitsOf(const LocalStore& store, const std::vector<TokenId>& tokens,
                            size_t prefilled, size_t piece, uint32_t threads,
                            Precision precision = Precision::kExact,
                            KvType kv_type = KvType::kF32) {
  LocalDecoder local(store, threads);
  KvPool pool = KvPool::ForTokens(local.model->config, kv_type, tokens.size());
  KvCache kv(&pool, static_cast<uint32_t>(tokens.size()));
  std::vector<float> logits(local.model->config.embedding_rows);
  PassAccounts accounts;
  for (size_t at = 0; at < prefilled; at += piece) {
    const size_t count = std::min(piece, prefilled - at);
    CHECK(AppendPrompt(*local.decoder, kv, {tokens.data() + at, count}, precision, logits, accounts)
              .ok());
  }
  for (size_t at = prefilled; at < tokens.size(); ++at) {
    CHECK(AppendToken(*local.decoder, kv, tokens[at], nullptr, Precision::kFast, logits, accounts)
              .ok());
  }
  EXPECT_EQ(kv.size(), tokens.size());
  return logits;
}

void ExpectClose(const std::vector<float>& expected, const std::vector<float>& actual,
                 double limit) {
  ASSERT_EQ(expected.size(), actual.size());
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(expected[i], actual[i], limit) << i;
}

TEST(DecoderTest, PrefillInAnyPiecesIsTheSameBitwiseAndCloseToStepByStep) {
  for (const bool tied : {false, true}) {
    for (const GgmlType type : {GgmlType::kF32, GgmlType::kF16, GgmlType::kQ8_0}) {
      LocalStore store({.model = {.matrices = type, .tied = tied, .rope_freqs = tied},
                        .pack = {.units = UnitEncoding::kQ8},
                        .store = {}});
      const std::vector<TokenId> tokens = {1, 270, 280, 5, 300, 17, 270, 263, 262, 299, 4};
      const std::vector<float> stepped = LogitsOf(store, tokens, 0, 1, 1);
      for (const Precision precision : {Precision::kExact, Precision::kFast}) {
        const std::vector<float> whole = LogitsOf(store, tokens, 11, 11, 1, precision);
        EXPECT_EQ(LogitsOf(store, tokens, 11, 4, 2, precision), whole);
        EXPECT_EQ(LogitsOf(store, tokens, 11, 1, 1, precision), whole);
        const double limit = precision == Precision::kExact ? 1e-5 : 5e-2;
        ExpectClose(stepped, whole, limit);
        ExpectClose(stepped, LogitsOf(store, tokens, 7, 3, 1, precision), limit);
      }
    }
  }
}

TEST(DecoderTest, WindowsAndCapsHoldInPromptsAndSteps) {
  const std::vector<TokenId> tokens = {1, 270, 280, 5, 300, 17, 270, 263, 262, 299, 4};
  std::vector<std::vector<float>> answers;
  for (const uint32_t window : {0u, 1u, 3u, 4u, 11u}) {
    for (const float cap : {0.0f, 0.2f}) {
      LocalStore store({.model = {.window = window, .attention_cap = cap},
                        .pack = {.units = UnitEncoding::kF32},
                        .store = {}});
      const std::vector<float> whole = LogitsOf(store, tokens, 11, 11, 1);
      EXPECT_EQ(LogitsOf(store, tokens, 11, 4, 2), whole);
      EXPECT_EQ(LogitsOf(store, tokens, 11, 1, 1), whole);
      ExpectClose(LogitsOf(store, tokens, 0, 1, 1), whole, 1e-5);
      ExpectClose(LogitsOf(store, tokens, 6, 6, 1), whole, 1e-5);
      if (window == 11) {
        EXPECT_EQ(whole, answers[cap != 0]) << "it shows everything";
        continue;
      }
      if (window == 1 && cap != 0) {
        EXPECT_EQ(whole, answers.back()) << "a token that sees itself alone has one weight: 1";
        continue;
      }
      EXPECT_THAT(answers, testing::Not(testing::Contains(whole)));
      answers.push_back(whole);
    }
  }
}

TEST(DecoderTest, HalfKvIsCloseToSingle) {
  LocalStore store;
  const std::vector<TokenId> tokens = {1, 270, 280, 5, 300, 17, 270};
  const std::vector<float> single =
      LogitsOf(store, tokens, 7, 7, 1, Precision::kExact, KvType::kF32);
  const std::vector<float> half = LogitsOf(store, tokens, 7, 7, 1, Precision::kExact, KvType::kF16);
  EXPECT_NE(single, half);
  for (size_t i = 0; i < single.size(); ++i) ASSERT_NEAR(single[i], half[i], 0.05);
}

TEST(DecoderTest, EightBitKvIsCloseToSingle) {
  LocalStore store({.model = {.heads = 2, .kv_heads = 1}, .store = {}});
  const std::vector<TokenId> tokens = {1, 270, 280, 5, 300, 17, 270};
  const auto logits = [&](KvType type, size_t prefilled, size_t piece) {
    return LogitsOf(store, tokens, prefilled, piece, 1, Precision::kExact, type);
  };
  const std::vector<float> single = logits(KvType::kF32, 7, 7), eight = logits(KvType::kQ8, 7, 7);
  EXPECT_NE(single, eight);
  EXPECT_EQ(logits(KvType::kQ8, 7, 3), eight);
  ExpectClose(single, eight, 0.05);
  ExpectClose(single, logits(KvType::kQ8, 3, 3), 0.05);
}

TEST(DecoderTest, LogitsOfEveryPromptPositionAreThoseOfTheShorterPrompts) {
  LocalStore store;
  LocalDecoder local(store);
  const std::vector<TokenId> tokens = {1, 270, 280, 5, 300};
  KvPool pool = KvPool::ForTokens(local.model->config, KvType::kF32, 8);
  KvCache kv(&pool, 8);
  PassAccounts accounts;
  std::vector<std::vector<float>> rows;
  ASSERT_TRUE(AppendPrompt(*local.decoder, kv, tokens, Precision::kExact, {}, accounts,
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
  KvPool pool = KvPool::ForTokens(local.model->config, KvType::kF32, 8);
  KvCache kv(&pool, 8);
  PassAccounts accounts;
  const std::vector<TokenId> tokens = {1, 270};
  ASSERT_TRUE(AppendPrompt(*local.decoder, kv, tokens, Precision::kExact, {}, accounts).ok());
  store.Stop();
  EXPECT_EQ(AppendToken(*local.decoder, kv, 5, nullptr, Precision::kFast, {}, accounts).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(kv.size(), 2u);
}

// Changes of a model after which it still packs.
std::function<void(GgufBuilder&)> Fill(const char* name, std::vector<uint64_t> dims, float value) {
  return [=](GgufBuilder& gguf) {
    uint64_t elements = 1;
    for (const uint64_t size : dims) elements *= size;
    gguf.AddTensor(name, GgmlType::kF32, dims, std::vector<float>(elements, value));
  };
}

void ExpectNotFinite(const absl::Status& status, const char* text) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  EXPECT_EQ(ErrorReason(status), kNumbersNotFinite);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(text));
}

TEST(DecoderTest, LogitsThatOverflowAreAnErrorAndLeaveTheCacheAsItWas) {
  // Soft caps make 30 of infinity.
  for (const bool capped : {false, true}) {
    LocalStore store({.model = {}, .pack = {}, .store = {}, .change = [=](GgufBuilder& gguf) {
                        Fill("output_norm.weight", {64}, 3e38f)(gguf);
                        if (capped) gguf.SetFloat("llama.final_logit_softcapping", 30);
                      }});
    LocalDecoder local(store);
    KvPool pool = KvPool::ForTokens(local.model->config, KvType::kF32, 8);
    KvCache kv(&pool, 8);
    std::vector<float> logits(local.model->config.embedding_rows);
    PassAccounts accounts;
    const std::vector<TokenId> prompt = {1, 270, 280};
    Decoder& decoder = *local.decoder;
    // Nobody asks for logits: keys and values are finite.
    ASSERT_TRUE(AppendPrompt(decoder, kv, prompt, Precision::kExact, {}, accounts).ok());
    ExpectNotFinite(AppendPrompt(decoder, kv, prompt, Precision::kExact, logits, accounts),
                    "the logit");
    EXPECT_EQ(kv.size(), 3u);
    const auto never = [](uint32_t, std::span<float>) { FAIL(); };
    ExpectNotFinite(AppendPrompt(decoder, kv, prompt, Precision::kExact, {}, accounts, never),
                    "the logit");
    EXPECT_EQ(kv.size(), 3u);
    ExpectNotFinite(AppendToken(decoder, kv, 5, nullptr, Precision::kExact, logits, accounts),
                    "the logit");
    EXPECT_EQ(kv.size(), 3u);
  }
}

TEST(DecoderTest, KeysTooLargeForAScaleAreAnError) {
  LocalStore store({.model = {.heads = 2, .kv_heads = 1},
                    .pack = {},
                    .store = {},
                    .change = Fill("blk.1.attn_v.bias", {32}, 1e7f)});
  LocalDecoder local(store);
  std::vector<float> logits(local.model->config.embedding_rows);
  PassAccounts accounts;
  KvPool pool = KvPool::ForTokens(local.model->config, KvType::kQ8, 8);
  KvCache kv(&pool, 8);
  const std::vector<TokenId> prompt = {1, 270};
  ExpectNotFinite(AppendPrompt(*local.decoder, kv, prompt, Precision::kExact, logits, accounts),
                  "layer 1, position 0: a key or value is not a finite number, or too large for 8");
  EXPECT_EQ(kv.size(), 0u);
}

TEST(DecoderTest, KeysTooLargeForAHalfAreAnError) {
  LocalStore store(
      {.model = {}, .pack = {}, .store = {}, .change = Fill("blk.1.attn_k.bias", {32}, 100000.0f)});
  LocalDecoder local(store);
  const std::vector<TokenId> prompt = {1, 270, 280};
  std::vector<float> logits(local.model->config.embedding_rows);
  PassAccounts accounts;
  KvPool halves = KvPool::ForTokens(local.model->config, KvType::kF16, 8);
  KvPool floats = KvPool::ForTokens(local.model->config, KvType::kF32, 8);
  KvCache half(&halves, 8), whole(&floats, 8);
  ExpectNotFinite(AppendPrompt(*local.decoder, half, prompt, Precision::kExact, logits, accounts),
                  "layer 1, position 0: a key or value is not a finite number, or too large");
  EXPECT_EQ(half.size(), 0u);
  ExpectNotFinite(
      AppendToken(*local.decoder, half, 1, nullptr, Precision::kExact, logits, accounts),
      "layer 1, position 0");
  EXPECT_TRUE(
      AppendPrompt(*local.decoder, whole, prompt, Precision::kExact, logits, accounts).ok());
}

}  // namespace tidegate::decoder_test
