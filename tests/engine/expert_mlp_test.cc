#include "engine/expert_mlp.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/engine/local_engine.h"
#include "tests/engine/mlp_rows.h"
#include "tests/engine/plain_mlp.h"

namespace tidegate::expert_mlp_test {

std::vector<ExpertShare> Choose(const std::vector<float>& logits, uint32_t used, bool normalise) {
  std::vector<ExpertShare> shares = {{9, 9}};  // What was there goes.
  ChooseExperts(logits, used, normalise, shares);
  return shares;
}

TEST(ChooseExpertsTest, TakesTheLargestByRisingNumber) {
  const auto shares = Choose({1, 4, -2, 3}, 2, false);
  ASSERT_EQ(shares.size(), 2u);
  EXPECT_EQ(shares[0].expert, 1u);
  EXPECT_EQ(shares[1].expert, 3u);
  const double total = std::exp(-3.0) + 1 + std::exp(-6.0) + std::exp(-1.0);
  EXPECT_NEAR(shares[0].weight, 1 / total, 1e-6);
  EXPECT_NEAR(shares[1].weight, std::exp(-1.0) / total, 1e-6);
}

TEST(ChooseExpertsTest, NormalisedWeightsSumUpToOne) {
  const auto shares = Choose({1, 4, -2, 3}, 2, true);
  EXPECT_NEAR(shares[0].weight, 1 / (1 + std::exp(-1.0)), 1e-6);
  EXPECT_NEAR(shares[0].weight + shares[1].weight, 1, 1e-6);
}

TEST(ChooseExpertsTest, TiesGoToTheSmallerNumberAndAllMayBeUsed) {
  const auto shares = Choose({2, 2, 2}, 2, false);
  EXPECT_EQ(shares[0].expert, 0u);
  EXPECT_EQ(shares[1].expert, 1u);
  EXPECT_NEAR(shares[1].weight, 1.0 / 3, 1e-6);
  EXPECT_EQ(Choose({5, 500, -500}, 3, false).size(), 3u);
}

TEST(ChooseExpertsTest, NotANumberIsTheLastChoice) {
  const auto shares = Choose({NAN, 1, 0}, 2, true);
  EXPECT_EQ(shares[0].expert, 1u);
  EXPECT_EQ(shares[1].expert, 2u);
}

// Layers of 64 input and 96 hidden units for each of five experts.
constexpr uint32_t kExperts = 5;
const TestModel kMixture = {.experts = kExperts, .experts_used = 2};

// A mixture behind a store.
struct Mixture {
  explicit Mixture(const LocalStore& store, uint32_t threads = 1, bool overlap = true)
      : local(store, threads, overlap),
        mlp(local.model.get(), local.units.get(), &local.pool, overlap),
        experts(local.model.get(), &mlp, &local.pool) {}

  std::vector<float> Step(const std::vector<float>& x, const RowPruning* step) {
    std::vector<float> y(64, 0.0f);
    CHECK((step == nullptr
               ? Dense(experts, 1, x.data(), Precision::kFast, y.data(), accounts)
               : Pruned(experts, 1, x.data(), *step, Precision::kFast, y.data(), accounts))
              .ok());
    return y;
  }
  std::vector<float> Tokens(const std::vector<float>& x) {
    std::vector<float> y(x.size(), 0.0f);
    const auto tokens = static_cast<uint32_t>(x.size() / 64);
    CHECK(DenseTokens(experts, 1, x.data(), tokens, Precision::kFast, y.data(), accounts).ok());
    return y;
  }

  LocalDecoder local;
  Mlp mlp;
  ExpertMlp experts;
  PassAccounts accounts;
};

// The pruned experts of layer 1 as method.md has one MLP, each for itself, times their weights.
std::vector<double> PlainMixture(const LocalStore& store, const Model& model,
                                 const std::vector<float>& x, uint32_t kept_input,
                                 uint32_t kept_hidden) {
  const MatrixView& router = model.layers[1].router;
  std::vector<float> logits(kExperts);
  for (uint32_t e = 0; e < kExperts; ++e) {
    std::vector<float> row(64);
    std::memcpy(row.data(), router.Row(e), 64 * sizeof(float));
    double sum = 0;
    for (size_t i = 0; i < 64; ++i) sum += double{row[i]} * x[i];
    logits[e] = static_cast<float>(sum);
  }
  std::vector<double> y(64, 0);
  for (const ExpertShare& share : Choose(logits, 2, true)) {
    const PlainMlp plain = LoadPlain(store.pack_path(), 1, share.expert, kExperts);
    const std::vector<double> part = PlainPruned(plain, x, kept_input, kept_hidden);
    for (size_t i = 0; i < y.size(); ++i) y[i] += share.weight * part[i];
  }
  return y;
}

TEST(ExpertMlpTest, EachExpertIsPrunedByItself) {
  LocalStore store({.model = kMixture, .pack = {.units = UnitEncoding::kF32}, .store = {}});
  Mixture mixture(store);
  for (uint32_t round = 0; round < 8; ++round) {  // So many that several experts have their turn.
    const std::vector<float> x = RandomInput(64, round);
    for (const auto& [kept_input, kept_hidden] : {std::pair{64u, 96u}, {40u, 30u}, {1u, 1u}}) {
      const RowPruning step = {.kept_input = kept_input, .kept_hidden = kept_hidden};
      mixture.accounts = {};
      const std::vector<float> y = mixture.Step(x, &step);
      const std::vector<double> expected =
          PlainMixture(store, *mixture.local.model, x, kept_input, kept_hidden);
      for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 1e-4) << i;
      EXPECT_EQ(mixture.accounts.hit_units[0] + mixture.accounts.miss_units[0], 2 * kept_input);
      EXPECT_EQ(mixture.accounts.hit_units[1] + mixture.accounts.miss_units[1], 2 * kept_hidden);
    }
  }
}

// The exactness gate (see mlp_test.cc) for mixtures.
TEST(ExpertMlpTest, NoBitDependsOnTheCacheAtGammaOne) {
  TempDir dir;
  WriteTrace(dir.File("trace"), kExperts * 64, kExperts * 96);
  const uint32_t tokens = 7;
  const std::vector<float> x = RandomInput(tokens * 64, 3);
  const std::vector<float> one(x.begin(), x.begin() + 64);
  const RowPruning all = {.kept_input = 64, .kept_hidden = 96};
  const RowPruning half = {.kept_input = 30, .kept_hidden = 40};
  std::vector<float> unplaced;
  for (const bool placed : {false, true}) {
    std::vector<float> dense, pruned, together;
    for (const double fraction : {1.0, 0.4, 0.0}) {
      for (const char* policy : {"value", "lfu"}) {
        for (const bool overlap : {true, false}) {
          StoreOptions options;
          options.policy = policy;
          options.cache_fraction = fraction;
          options.staging_bytes = 8192;
          LocalStore store(
              {.model = kMixture,
               .pack = {.units = UnitEncoding::kQ4, .trace_path = placed ? dir.File("trace") : ""},
               .store = options});
          Mixture mixture(store, overlap ? 2 : 1, overlap);
          ASSERT_EQ(mixture.local.model->unit_orders[0][1].unit_at.empty(), !placed);
          for (int round = 0; round < 2; ++round) {  // Cold, then warm.
            if (dense.empty()) {
              dense = mixture.Step(one, nullptr);
              pruned = mixture.Step(one, &half);
              together = mixture.Tokens(x);
            }
            const auto where = [&] { return absl::StrCat(policy, fraction, overlap, placed); };
            EXPECT_EQ(mixture.Step(one, nullptr), dense) << where();
            EXPECT_EQ(mixture.Step(one, &all), dense) << where();
            EXPECT_EQ(mixture.Step(one, &half), pruned) << where();
            EXPECT_EQ(mixture.Tokens(x), together) << where();
          }
        }
      }
    }
    if (unplaced.empty()) unplaced = dense;
    for (size_t i = 0; i < dense.size(); ++i) EXPECT_NEAR(dense[i], unplaced[i], 1e-3);
  }
}

TEST(ExpertMlpTest, SeveralTokensEqualEachAloneBitwiseAndOneTokenClosely) {
  LocalStore store({.model = kMixture, .pack = {.units = UnitEncoding::kF32}, .store = {}});
  Mixture mixture(store, 2);
  const std::vector<float> x = RandomInput(9 * 64, 4);
  const std::vector<float> together = mixture.Tokens(x);
  for (size_t t = 0; t < 9; ++t) {
    const auto at = x.begin() + static_cast<ptrdiff_t>(t * 64);
    const std::vector<float> token(at, at + 64);
    const std::vector<float> alone = mixture.Tokens(token), stepped = mixture.Step(token, nullptr);
    for (size_t i = 0; i < 64; ++i) {
      ASSERT_EQ(together[t * 64 + i], alone[i]);
      ASSERT_NEAR(alone[i], stepped[i], 5e-2);  // bfloat16, where the CPU has it
    }
  }
}

// Masks below gamma 1 with a small cache, on a device on which blocks land in any order.
TEST(ExpertMlpTest, CacheAwareMasksEndAndAgree) {
  StoreOptions options;
  options.cache_fraction = 0.25;
  options.staging_bytes = 8192;
  options.queue_depth = 4;
  options.flash_model = FlashModel{
      .bytes_per_second = 0, .latency = std::chrono::microseconds(30), .reads_per_second = 0};
  LocalStore store({.model = kMixture,
                    .pack = {.units = UnitEncoding::kF32, .one_unit_per_block = true},
                    .store = options});
  Mixture mixture(store);
  const RowPruning step = {.kept_input = 50, .kept_hidden = 70, .gamma = 0.999999};
  for (uint32_t round = 0; round < 30; ++round) {
    const std::vector<float> x = RandomInput(64, round);
    const std::vector<float> y = mixture.Step(x, &step);
    const std::vector<double> expected = PlainMixture(store, *mixture.local.model, x, 50, 70);
    for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], 1e-4) << round;
  }
}

// With gamma 0 a mask takes what is resident of this expert, wherever that of others lies.
TEST(ExpertMlpTest, MasksLookAtTheResidencyOfTheirExpert) {
  StoreOptions options;
  options.policy = "lfu";
  options.cache_fraction = 0.5;
  LocalStore store({.model = kMixture,
                    .pack = {.units = UnitEncoding::kF32, .one_unit_per_block = true},
                    .store = options});
  Mixture mixture(store);
  std::vector<std::vector<uint32_t>> masks;
  mixture.mlp.set_on_mask(
      [&](uint32_t, UnitKind, const UnitOrder&, std::span<const uint32_t> positions) {
        masks.emplace_back(positions.begin(), positions.end());
      });
  const auto run = [&](uint32_t expert, double gamma, uint32_t seed) {
    masks.clear();
    const std::vector<float> x = RandomInput(64, seed);
    std::vector<float> y(64, 0.0f);
    const RowPruning step = {.kept_input = 20, .kept_hidden = 30, .gamma = gamma};
    EXPECT_TRUE(RunRows(mixture.mlp, 1, RowForm::kDecode, x.data(), 1, &step, Precision::kExact,
                        y.data(), mixture.accounts, MlpAhead(), expert)
                    .ok());
    EXPECT_GE(masks[0].front(), expert * 64);
    EXPECT_LT(masks[0].back(), (expert + 1) * 64);
    EXPECT_GE(masks[1].front(), expert * 96);
    EXPECT_LT(masks[1].back(), (expert + 1) * 96);
    return masks;
  };
  const auto third = run(3, 1, 1), first = run(0, 1, 2);
  EXPECT_EQ(run(3, 0, 7), third);
  EXPECT_EQ(run(0, 0, 8), first);
  EXPECT_NE(run(3, 1, 7), third);
}

}  // namespace tidegate::expert_mlp_test
