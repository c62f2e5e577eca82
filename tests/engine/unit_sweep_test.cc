// Sweeps over units that land as a script says: every order must end, and with the same sums.
#include "engine/unit_sweep.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/engine/local_engine.h"
#include "tests/engine/mlp_rows.h"
#include "tests/engine/plain_mlp.h"
#include "tests/engine/scripted_units.h"

namespace tidegate::unit_sweep_test {

struct Scripted {
  explicit Scripted(ScriptedUnits::ScriptFor script)
      : store({.model = {},
               .pack = {.units = UnitEncoding::kF32, .one_unit_per_block = true},
               .store = {}}),
        local(store),
        units(local.client.get(), std::move(script)),
        mlp(local.model.get(), &units, &local.pool, true) {
    // Brings every block into memory, where the script finds it.
    const std::vector<float> x = RandomInput(64, 1);
    std::vector<float> y(64);
    PassAccounts accounts;
    Mlp warm(local.model.get(), local.units.get(), &local.pool, true);
    CHECK(Dense(warm, 0, x.data(), Precision::kExact, y.data(), accounts).ok());
  }

  LocalStore store;
  LocalDecoder local;
  ScriptedUnits units;
  Mlp mlp;
};

// Streamed blocks may be added before a cached one that is listed earlier has landed: their staging
// must come free all the same.
TEST(UnitSweepTest, CacheAwareSweepsEndHoweverBlocksLand) {
  const auto script = [](uint32_t, UnitKind, size_t blocks) {
    // Every other block is streamed, with room for two; the cached ones land from the last to the
    // first, in between.
    LandingScript landing = {.staging_blocks = 2};
    const auto count = static_cast<uint32_t>(blocks);
    for (uint32_t i = 1; i < count; i += 2) landing.streamed.insert(i);
    uint32_t cached = (count - 1) / 2 * 2;
    landing.order = {1};  // one is ahead of a cached block that comes last of all but the streamed
    for (uint32_t i = 0; i < cached; i += 2) landing.order.push_back(i);
    landing.order.push_back(cached);
    for (uint32_t i = 3; i < count; i += 2) landing.order.push_back(i);
    return landing;
  };
  Scripted scripted(script);
  const PlainMlp plain = LoadPlain(scripted.store.pack_path(), 0);
  const std::vector<float> x = RandomInput(64, 5);
  std::vector<float> y(64, 0.0f);
  PassAccounts accounts;
  const RowPruning prune = {.kept_input = 50, .kept_hidden = 70, .gamma = 0.999999};
  const absl::Status done =
      Pruned(scripted.mlp, 0, x.data(), prune, Precision::kExact, y.data(), accounts);
  ASSERT_TRUE(done.ok()) << done;
  const std::vector<double> expected = PlainPruned(plain, x, 50, 70);
  for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 1e-4);
}

// In pack order no bit depends on the order of landing, of prompts or of single rows.
TEST(UnitSweepTest, InOrderSumsDoNotDependOnTheOrderOfLanding) {
  std::vector<uint32_t> (*orders[])(uint32_t) = {[](uint32_t) { return std::vector<uint32_t>(); },
                                                 [](uint32_t count) {
                                                   std::vector<uint32_t> order(count);
                                                   std::iota(order.begin(), order.end(), 0u);
                                                   return order;
                                                 },
                                                 [](uint32_t count) {
                                                   std::vector<uint32_t> order(count);
                                                   std::iota(order.rbegin(), order.rend(), 0u);
                                                   return order;
                                                 },
                                                 [](uint32_t count) {
                                                   std::vector<uint32_t> order;
                                                   for (uint32_t i = 0; i < count; ++i)
                                                     order.push_back(i * 37 % count);
                                                   return order;
                                                 }};
  std::vector<float> dense, pruned, prompt;
  for (const auto order : orders) {
    Scripted scripted([order](uint32_t, UnitKind, size_t blocks) {
      const auto count = static_cast<uint32_t>(blocks);
      return LandingScript{.order = count % 37 == 0 ? std::vector<uint32_t>() : order(count)};
    });
    const std::vector<float> x = RandomInput(3 * 64, 6);
    std::vector<float> y(64, 0.0f), part(64, 0.0f), many(3 * 64, 0.0f);
    PassAccounts accounts;
    const RowPruning prune = {.kept_input = 31, .kept_hidden = 41};
    ASSERT_TRUE(Dense(scripted.mlp, 0, x.data(), Precision::kExact, y.data(), accounts).ok());
    ASSERT_TRUE(
        Pruned(scripted.mlp, 0, x.data(), prune, Precision::kExact, part.data(), accounts).ok());
    ASSERT_TRUE(
        DenseTokens(scripted.mlp, 0, x.data(), 3, Precision::kExact, many.data(), accounts).ok());
    if (dense.empty()) {
      dense = y;
      pruned = part;
      prompt = many;
    }
    EXPECT_EQ(y, dense);
    EXPECT_EQ(part, pruned);
    EXPECT_EQ(many, prompt);
  }
}

TEST(UnitSweepTest, ABlockThatIsLostEndsTheSweep) {
  Scripted scripted([](uint32_t, UnitKind kind, size_t) {
    LandingScript landing;
    if (kind == UnitKind::kHidden) landing = {.order = {7}, .fails = 7};
    return landing;
  });
  const std::vector<float> x = RandomInput(64, 2);
  std::vector<float> y(64, 0.0f);
  PassAccounts accounts;
  EXPECT_EQ(Dense(scripted.mlp, 0, x.data(), Precision::kExact, y.data(), accounts).code(),
            absl::StatusCode::kDataLoss);
}

// What is read is paid for in equal parts by those that wanted it.
TEST(UnitSweepTest, EveryRowPaysItsPart) {
  Scripted scripted([](uint32_t, UnitKind, size_t blocks) {
    LandingScript landing;  // Nothing is resident.
    landing.order.resize(blocks);
    std::iota(landing.order.begin(), landing.order.end(), 0u);
    return landing;
  });
  const std::vector<float> x = RandomInput(2 * 64, 3);
  std::vector<float> y(2 * 64, 0.0f);
  const std::vector<uint32_t> sequences = {0, 1};
  const RowPruning prune = {.kept_input = 16, .kept_hidden = 24};
  const std::vector<const RowPruning*> prunes = {nullptr, &prune};
  const MlpRows rows = {
      .count = 2, .x = x.data(), .y = y.data(), .sequences = sequences, .prune = prunes};
  StepCost cost;
  cost.sequences.resize(2);
  ASSERT_TRUE(scripted.mlp.Run(0, {&rows, 1}, cost).ok());
  const uint64_t block = scripted.units.geometry().kind(UnitKind::kInput).block_bytes;
  const PassAccounts &dense = cost.sequences[0], &masked = cost.sequences[1];
  EXPECT_EQ(cost.step.flash_bytes, (64 + 96) * block);
  EXPECT_EQ(dense.flash_bytes + masked.flash_bytes, cost.step.flash_bytes);
  // Half of each block that both want.
  EXPECT_NEAR(static_cast<double>(masked.flash_bytes), (16 + 24) * 0.5 * block, 2);
  EXPECT_EQ(dense.miss_units[0], 64u);
  EXPECT_EQ(masked.miss_units[0], 16u);
  EXPECT_EQ(masked.miss_units[1], 24u);
  // Every block was asked for once.
  ASSERT_EQ(scripted.units.asked.size(), 2u);
  EXPECT_EQ(scripted.units.asked[0].wanted.size(), 64u);
  EXPECT_EQ(scripted.units.asked[0].mode, LeaseMode::kStream);
}

// Cache-aware rows whose masks are much alike add what they want together; each row's sums and
// accounts are those of its own mask.
TEST(UnitSweepTest, RowsThatShareUnitsKeepTheirMasks) {
  for (const bool resident : {false, true}) {
    StoreOptions options;
    options.cache_fraction = resident ? 1 : 0.5;
    LocalStore store({.model = {},
                      .pack = {.units = UnitEncoding::kF32, .one_unit_per_block = true},
                      .store = options});
    LocalDecoder local(store);
    Mlp mlp(local.model.get(), local.units.get(), &local.pool, true);
    if (resident) {
      const std::vector<float> warm = RandomInput(64, 1);
      std::vector<float> unused(64);
      PassAccounts accounts;
      ASSERT_TRUE(Dense(mlp, 0, warm.data(), Precision::kExact, unused.data(), accounts).ok());
    }
    const PlainMlp plain = LoadPlain(store.pack_path(), 0);
    constexpr uint32_t kRows = 4;
    const std::vector<float> first = RandomInput(64, 8), other = RandomInput(64, 9);
    std::vector<float> x;
    for (uint32_t r = 0; r < kRows; ++r) {
      for (size_t i = 0; i < 64; ++i)
        x.push_back(first[i] + 0.1f * static_cast<float>(r) * other[i]);
    }
    const RowPruning prune = {
        .kept_input = 40, .kept_hidden = 60, .gamma = 0.999999, .may_be_dense = true};
    const std::vector<const RowPruning*> prunes(kRows, &prune);
    const std::vector<uint32_t> sequences = {0, 1, 2, 3};
    std::vector<float> y(kRows * 64, 0.0f);
    const MlpRows rows = {
        .count = kRows, .x = x.data(), .y = y.data(), .sequences = sequences, .prune = prunes};
    StepCost cost;
    cost.sequences.resize(kRows);
    ASSERT_TRUE(mlp.Run(0, {&rows, 1}, cost).ok());
    for (uint32_t r = 0; r < kRows; ++r) {
      const std::vector<float> own(x.begin() + r * 64, x.begin() + (r + 1) * 64);
      const std::vector<double> expected = PlainPruned(plain, own, 40, 60);
      for (size_t i = 0; i < 64; ++i) ASSERT_NEAR(y[r * 64 + i], expected[i], 1e-4) << r;
      const PassAccounts& accounts = cost.sequences[r];
      EXPECT_EQ(accounts.hit_units[0] + accounts.miss_units[0], 40u);
      EXPECT_EQ(accounts.hit_units[1] + accounts.miss_units[1], 60u);
      EXPECT_EQ(accounts.dense_instead, 0);
    }
  }
}

// Where nothing is resident, a mask that follows company prefers what the row before it wants.
TEST(UnitSweepTest, MasksThatFollowCompanyReadLess) {
  const auto bytes_read = [](bool follows) {
    StoreOptions half;
    half.cache_fraction = 0.5;
    LocalStore store({.model = {},
                      .pack = {.units = UnitEncoding::kF32, .one_unit_per_block = true},
                      .store = half});
    LocalDecoder local(store);
    Mlp mlp(local.model.get(), local.units.get(), &local.pool, true);
    const std::vector<float> x = RandomInput(3 * 64, 11);
    const RowPruning prune = {.kept_input = 30,
                              .kept_hidden = 40,
                              .gamma = 0.2,
                              .protected_share = 0.25,
                              .follows_company = follows};
    const std::vector<const RowPruning*> prunes(3, &prune);
    const std::vector<uint32_t> sequences = {0, 1, 2};
    std::vector<float> y(3 * 64, 0.0f);
    const MlpRows rows = {
        .count = 3, .x = x.data(), .y = y.data(), .sequences = sequences, .prune = prunes};
    StepCost cost;
    cost.sequences.resize(3);
    EXPECT_TRUE(mlp.Run(0, {&rows, 1}, cost).ok());
    for (const PassAccounts& accounts : cost.sequences) {
      EXPECT_EQ(accounts.hit_units[0] + accounts.miss_units[0], 30u);
      EXPECT_EQ(accounts.hit_units[1] + accounts.miss_units[1], 40u);
    }
    return cost.step.flash_bytes;
  };
  EXPECT_LT(bytes_read(true), bytes_read(false));
}

}  // namespace tidegate::unit_sweep_test
