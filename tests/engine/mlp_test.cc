#include "engine/mlp.h"

#include <gtest/gtest.h>

#include "tests/engine/local_engine.h"
#include "tests/engine/mlp_rows.h"
#include "tests/engine/plain_mlp.h"

namespace tidegate::mlp_test {

TEST(MlpTest, PrunedAgreesWithThePlainMethod) {
  for (const UnitEncoding units :
       {UnitEncoding::kF32, UnitEncoding::kF16, UnitEncoding::kQ8, UnitEncoding::kQ4}) {
    LocalStore store({.model = {}, .pack = {.units = units}, .store = {}});
    LocalDecoder local(store);
    Mlp mlp(local.model.get(), local.units.get(), &local.pool, true);
    for (uint32_t layer = 0; layer < 2; ++layer) {
      const PlainMlp plain = LoadPlain(store.pack_path(), layer);
      const std::vector<float> x = RandomInput(64, 5 + layer);
      for (const auto& [kept_input, kept_hidden] : {std::pair{64u, 96u}, {40u, 30u}, {1u, 1u}}) {
        std::vector<float> y(64, 0.0f);
        PassAccounts accounts;
        ASSERT_TRUE(Pruned(mlp, layer, x.data(),
                           {.kept_input = kept_input, .kept_hidden = kept_hidden},
                           Precision::kExact, y.data(), accounts)
                        .ok());
        const std::vector<double> expected = PlainPruned(plain, x, kept_input, kept_hidden);
        for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 1e-4);
        EXPECT_EQ(accounts.hit_units[0] + accounts.miss_units[0], kept_input);
        EXPECT_EQ(accounts.hit_units[1] + accounts.miss_units[1], kept_hidden);
      }
    }
  }
}

TEST(MlpTest, SeveralTokensEqualEachAloneBitwiseAndOneTokenClosely) {
  const uint32_t tokens = 9;
  for (const UnitEncoding units : {UnitEncoding::kF32, UnitEncoding::kQ4}) {
    LocalStore store({.model = {}, .pack = {.units = units}, .store = {}});
    LocalDecoder local(store);
    Mlp mlp(local.model.get(), local.units.get(), &local.pool, true);
    const std::vector<float> x = RandomInput(tokens * 64, 9);
    for (const Precision precision : {Precision::kExact, Precision::kFast}) {
      std::vector<float> together(tokens * 64, 0.0f), alone = together, stepped = together;
      PassAccounts accounts;
      ASSERT_TRUE(DenseTokens(mlp, 1, x.data(), tokens, precision, together.data(), accounts).ok());
      for (uint32_t t = 0; t < tokens; ++t) {
        const size_t at = t * 64;
        ASSERT_TRUE(DenseTokens(mlp, 1, &x[at], 1, precision, &alone[at], accounts).ok());
        ASSERT_TRUE(Dense(mlp, 1, &x[at], precision, &stepped[at], accounts).ok());
      }
      EXPECT_EQ(together, alone);
      // Outputs are of the order of 1: f32 rounding, and 8 bits of every operand.
      const double limit = precision == Precision::kExact ? 1e-5 : 2e-2;
      for (size_t i = 0; i < alone.size(); ++i) ASSERT_NEAR(alone[i], stepped[i], limit);
    }
  }
}

// Batches of a prompt are as large as staging allows; what they hold must not show.
TEST(MlpTest, DensePassesShowWhatTheyMultiplyWith) {
  LocalStore store({.model = {}, .pack = {.units = UnitEncoding::kF32}, .store = {}});
  LocalDecoder local(store);
  Mlp mlp(local.model.get(), local.units.get(), &local.pool, true);
  constexpr uint32_t kTokens = 3;
  std::vector<float> seen[kUnitKinds];
  mlp.set_on_inputs([&](uint32_t layer, UnitKind kind, const float* values, uint32_t tokens) {
    EXPECT_EQ(layer, 1u);
    const size_t width = kind == UnitKind::kInput ? 64 : 96;
    seen[static_cast<uint32_t>(kind)].assign(values, values + tokens * width);
  });
  const std::vector<float> x = RandomInput(kTokens * 64, 3);
  std::vector<float> y(kTokens * 64, 0.0f);
  PassAccounts accounts;
  ASSERT_TRUE(DenseTokens(mlp, 1, x.data(), kTokens, Precision::kExact, y.data(), accounts).ok());
  EXPECT_EQ(seen[0], x);
  ASSERT_EQ(seen[1].size(), kTokens * 96u);
  const PlainMlp plain = LoadPlain(store.pack_path(), 1);
  for (uint32_t t = 0; t < kTokens; ++t) {  // What they show makes y.
    for (size_t i = 0; i < 64; ++i) {
      double sum = 0;
      for (size_t j = 0; j < 96; ++j) {
        sum += static_cast<double>(seen[1][t * 96 + j]) * plain.down[j][i];
      }
      ASSERT_NEAR(y[t * 64 + i], sum, 1e-4);
    }
  }
}

TEST(MlpTest, NoBitOfSeveralTokensDependsOnTheCache) {
  const uint32_t tokens = 7;
  const std::vector<float> x = RandomInput(tokens * 64, 22);
  for (const Precision precision : {Precision::kExact, Precision::kFast}) {
    std::vector<float> expected;
    for (const double fraction : {1.0, 0.4, 0.0}) {
      for (const uint64_t staging : {4096u, 8192u, 12288u, 40960u}) {
        StoreOptions options;
        options.cache_fraction = fraction;
        options.staging_bytes = staging;
        LocalStore store({.model = {},
                          .pack = {.units = UnitEncoding::kQ8, .one_unit_per_block = true},
                          .store = options});
        LocalDecoder local(store, 2);
        Mlp mlp(local.model.get(), local.units.get(), &local.pool, true);
        for (int round = 0; round < 2; ++round) {  // Cold, then warm.
          std::vector<float> y(tokens * 64, 0.0f);
          PassAccounts accounts;
          ASSERT_TRUE(DenseTokens(mlp, 0, x.data(), tokens, precision, y.data(), accounts).ok());
          if (expected.empty()) expected = y;
          EXPECT_EQ(y, expected) << fraction << " " << staging;
        }
      }
    }
  }
}

// The exactness gate at its source: no bit depends on cache, policy, overlap or threads at gamma 1,
// and density 1 is dense, however the units are placed.
class Exactness : public testing::TestWithParam<bool> {};

TEST_P(Exactness, NoBitDependsOnTheCacheAtGammaOne) {
  TempDir dir;
  PackOptions pack = {.units = UnitEncoding::kQ4};
  if (GetParam()) {
    pack.trace_path = dir.File("trace");
    WriteTrace(pack.trace_path, 64, 96);
  }
  const std::vector<float> x = RandomInput(64, 21);
  std::vector<float> dense, pruned;
  for (const double fraction : {1.0, 0.4, 0.0}) {
    for (const char* policy : {"value", "lfu", "lru", "none"}) {
      for (const bool overlap : {true, false}) {
        StoreOptions options;
        options.policy = policy;
        options.cache_fraction = fraction;
        options.staging_bytes = 8192;
        LocalStore store({.model = {}, .pack = pack, .store = options});
        LocalDecoder local(store, overlap ? 2 : 1, overlap);
        ASSERT_EQ(local.model->unit_orders[0][1].unit_at.empty(), !GetParam());
        Mlp mlp(local.model.get(), local.units.get(), &local.pool, overlap);
        for (int round = 0; round < 2; ++round) {  // Cold, then warm.
          PassAccounts accounts;
          std::vector<float> y(64, 0.0f), all(64, 0.0f), part(64, 0.0f);
          ASSERT_TRUE(Dense(mlp, 1, x.data(), Precision::kFast, y.data(), accounts).ok());
          ASSERT_TRUE(Pruned(mlp, 1, x.data(), {.kept_input = 64, .kept_hidden = 96},
                             Precision::kFast, all.data(), accounts)
                          .ok());
          ASSERT_TRUE(Pruned(mlp, 1, x.data(), {.kept_input = 30, .kept_hidden = 40},
                             Precision::kFast, part.data(), accounts)
                          .ok());
          if (dense.empty()) {
            dense = y;
            pruned = part;
          }
          EXPECT_EQ(y, dense) << policy << fraction << overlap;
          EXPECT_EQ(all, dense) << policy << fraction << overlap;
          EXPECT_EQ(part, pruned) << policy << fraction << overlap;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(MlpTest, Exactness, testing::Bool(), [](const auto& param) {
  return param.param ? "PlacedByATrace" : "InTheModelsOrder";
});

// A model whose sweeps are long enough to be divided among threads.
TEST(MlpTest, NoBitDependsOnTheNumberOfThreads) {
  for (const UnitEncoding units : {UnitEncoding::kF32, UnitEncoding::kQ4}) {
    LocalStore store(
        {.model = {.hidden = 512, .intermediate = 2048}, .pack = {.units = units}, .store = {}});
    const std::vector<float> x = RandomInput(512, 41);
    std::vector<float> dense, pruned;
    for (const uint32_t threads : {1u, 2u, 3u, 5u}) {
      LocalDecoder local(store, threads);
      Mlp mlp(local.model.get(), local.units.get(), &local.pool, true);
      PassAccounts accounts;
      std::vector<float> y(512, 0.0f), part(512, 0.0f);
      ASSERT_TRUE(Dense(mlp, 0, x.data(), Precision::kFast, y.data(), accounts).ok());
      ASSERT_TRUE(Pruned(mlp, 0, x.data(), {.kept_input = 300, .kept_hidden = 1501},
                         Precision::kFast, part.data(), accounts)
                      .ok());
      if (dense.empty()) {
        dense = y;
        pruned = part;
      }
      EXPECT_EQ(y, dense) << threads;
      EXPECT_EQ(part, pruned) << threads;
    }
  }
}

// What a placed pack computes is what the model computes.
TEST(MlpTest, PlacementDoesNotChangeTheModel) {
  TempDir dir;
  WriteTrace(dir.File("trace"), 64, 96);
  const std::vector<float> x = RandomInput(64, 31);
  std::vector<float> y[2];
  for (const bool placed : {false, true}) {
    LocalStore store(
        {.model = {},
         .pack = {.units = UnitEncoding::kF32, .trace_path = placed ? dir.File("trace") : ""},
         .store = {}});
    LocalDecoder local(store);
    Mlp mlp(local.model.get(), local.units.get(), &local.pool, true);
    std::vector<uint32_t> masked;
    mlp.set_on_mask(
        [&](uint32_t layer, UnitKind kind, const UnitOrder&, std::span<const uint32_t> positions) {
          EXPECT_EQ(layer, 0u);
          masked.push_back(static_cast<uint32_t>(kind));
          masked.push_back(static_cast<uint32_t>(positions.size()));
        });
    y[placed].assign(64, 0.0f);
    PassAccounts accounts;
    ASSERT_TRUE(Pruned(mlp, 0, x.data(), {.kept_input = 30, .kept_hidden = 40}, Precision::kFast,
                       y[placed].data(), accounts)
                    .ok());
    EXPECT_EQ(masked, (std::vector<uint32_t>{0, 30, 1, 40}));
  }
  for (size_t i = 0; i < 64; ++i) EXPECT_NEAR(y[0][i], y[1][i], 1e-5);
}

// Streamed blocks may be added before a cached one that is listed earlier has landed: their staging
// must come free all the same. The modelled device makes every order of landing likely; with
// staging for two blocks the sweep used to stop for ever.
TEST(MlpTest, CacheAwareSweepsEndHoweverBlocksLand) {
  StoreOptions options;
  options.cache_fraction = 0.25;
  options.staging_bytes = 8192;
  options.queue_depth = 4;
  options.flash_model = FlashModel{
      .bytes_per_second = 0, .latency = std::chrono::microseconds(30), .reads_per_second = 0};
  LocalStore store({.model = {},
                    .pack = {.units = UnitEncoding::kF32, .one_unit_per_block = true},
                    .store = options});
  LocalDecoder local(store);
  Mlp mlp(local.model.get(), local.units.get(), &local.pool, true);
  for (uint32_t round = 0; round < 60; ++round) {
    const std::vector<float> x = RandomInput(64, round);
    const PlainMlp plain = LoadPlain(store.pack_path(), 0);
    std::vector<float> y(64, 0.0f);
    PassAccounts accounts;
    ASSERT_TRUE(Pruned(mlp, 0, x.data(), {.kept_input = 50, .kept_hidden = 70, .gamma = 0.999999},
                       Precision::kFast, y.data(), accounts)
                    .ok());
    const std::vector<double> expected = PlainPruned(plain, x, 50, 70);
    for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 1e-4) << round;
  }
}

TEST(MlpTest, DensePinsWhatFitsAndStreamsTheRest) {
  StoreOptions options;
  options.cache_fraction = 0.5;
  LocalStore store({.model = {},
                    .pack = {.units = UnitEncoding::kF32, .one_unit_per_block = true},
                    .store = options});
  LocalDecoder local(store);
  Mlp mlp(local.model.get(), local.units.get(), &local.pool, true);
  const std::vector<float> x = RandomInput(64, 2);
  std::vector<float> y(64);
  PassAccounts cold, warm;
  ASSERT_TRUE(Dense(mlp, 1, x.data(), Precision::kFast, y.data(), cold).ok());
  ASSERT_TRUE(Dense(mlp, 1, x.data(), Precision::kFast, y.data(), warm).ok());
  EXPECT_EQ(cold.flash_bytes, (64u + 96u) * 4096u);
  EXPECT_EQ(warm.flash_bytes, (32u + 48u) * 4096u);
  EXPECT_EQ(warm.hit_units[0], 32u);
}

TEST(MlpTest, ADeadStoreIsUnavailable) {
  LocalStore store;
  LocalDecoder local(store);
  Mlp mlp(local.model.get(), local.units.get(), &local.pool, true);
  store.Stop();
  std::vector<float> x(64, 1.0f), y(64);
  PassAccounts accounts;
  EXPECT_EQ(Dense(mlp, 0, x.data(), Precision::kFast, y.data(), accounts).code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace tidegate::mlp_test
