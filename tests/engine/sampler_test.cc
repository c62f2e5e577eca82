#include "engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace tidegate::sampler_test {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Everything off but the draw itself.
SamplingParams Plain(uint64_t seed = 1) {
  SamplingParams params;
  params.temperature = 1;
  params.top_k = 0;
  params.top_p = 1;
  params.min_p = 0;
  params.seed = seed;
  return params;
}

SamplingParams GreedyParams() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

TokenId SampleOnce(const SamplingParams& params, std::vector<float> logits) {
  return Sampler(params, {}).Sample(logits);
}

std::vector<TokenId> Draws(const SamplingParams& params, const std::vector<float>& logits, int n) {
  Sampler sampler(params, {});
  std::vector<TokenId> tokens;
  for (int i = 0; i < n; ++i) {
    std::vector<float> copy = logits;
    tokens.push_back(sampler.Sample(copy));
  }
  return tokens;
}

std::set<TokenId> Drawn(const SamplingParams& params, const std::vector<float>& logits) {
  const std::vector<TokenId> tokens = Draws(params, logits, 2000);
  return {tokens.begin(), tokens.end()};
}

// The share of each token among `n` draws must be within five standard deviations of `expected`.
void ExpectShares(const SamplingParams& params, const std::vector<float>& logits,
                  const std::vector<double>& expected) {
  constexpr int kDraws = 20000;
  std::vector<int> counts(logits.size());
  for (const TokenId token : Draws(params, logits, kDraws)) ++counts[static_cast<size_t>(token)];
  for (size_t i = 0; i < expected.size(); ++i) {
    const double p = expected[i];
    EXPECT_NEAR(counts[i] / double{kDraws}, p, 5 * std::sqrt(p * (1 - p) / kDraws))
        << "token " << i;
  }
}

std::vector<float> Logs(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

TEST(SamplerGreedy, TakesTheLargestLogit) {
  EXPECT_EQ(SampleOnce(GreedyParams(), {-3, 5, 4.9f, -kInf}), 1);
  EXPECT_EQ(SampleOnce(GreedyParams(), {-3, -2, -5}), 1);
}

TEST(SamplerGreedy, TakesTheSmallestIdOfTies) {
  EXPECT_EQ(SampleOnce(GreedyParams(), {1, 7, 7, 7}), 1);
  EXPECT_EQ(SampleOnce(GreedyParams(), {0.0f, -0.0f}), 0);
  EXPECT_EQ(SampleOnce(GreedyParams(), {-0.0f, 0.0f}), 0);
}

TEST(Sampler, NanNeverWins) {
  EXPECT_EQ(SampleOnce(GreedyParams(), {kNan, -9, kNan, -8, kNan}), 3);
  EXPECT_EQ(Drawn(Plain(), {kNan, 0, kNan, 0, -kInf}), (std::set<TokenId>{1, 3}));
}

TEST(Sampler, WithNothingLeftTakesTheSmallestIdThatIsNotNan) {
  for (const SamplingParams& params : {GreedyParams(), Plain(), SamplingParams()}) {
    EXPECT_EQ(SampleOnce(params, {-kInf, -kInf}), 0);
    EXPECT_EQ(SampleOnce(params, {kNan, -kInf, -kInf}), 1);
    EXPECT_EQ(SampleOnce(params, {kNan, kNan}), 0);
  }
}

TEST(Sampler, InfinitiesShareAllOfTheProbability) {
  EXPECT_EQ(SampleOnce(GreedyParams(), {0, kInf, kInf}), 1);
  EXPECT_EQ(Drawn(Plain(), {0, kInf, 1000, kInf}), (std::set<TokenId>{1, 3}));
  EXPECT_EQ(Drawn(SamplingParams(), {0, kInf, 1000, kInf}), (std::set<TokenId>{1, 3}));
}

TEST(Sampler, DrawsInProportion) {
  ExpectShares(Plain(), Logs({0.1, 0.6, 0.05, 0.25}), {0.1, 0.6, 0.05, 0.25});
  // A constant added to all logits changes nothing, however large.
  ExpectShares(Plain(), {1024, 1025, 1024}, {0.21194, 0.57612, 0.21194});
}

TEST(SamplerTemperature, SharpensAndFlattens) {
  SamplingParams params = Plain();
  params.temperature = 0.5f;  // squares the ratios
  ExpectShares(params, Logs({0.75, 0.25}), {0.9, 0.1});
  params.temperature = 2;  // their roots
  ExpectShares(params, Logs({0.8, 0.2}), {2.0 / 3, 1.0 / 3});
  params.temperature = 100;
  ExpectShares(params, {0, 1}, {0.4975, 0.5025});
}

TEST(SamplerTemperature, NearZeroIsGreedyButSharesTies) {
  SamplingParams params = Plain();
  params.temperature = 1e-40f;
  EXPECT_EQ(Drawn(params, {1, 3, 2.999f, 3}), (std::set<TokenId>{1, 3}));
}

TEST(SamplerTopK, KeepsTheBestAndOfTiesTheSmallestIds) {
  SamplingParams params = Plain();
  params.top_k = 2;
  EXPECT_EQ(Drawn(params, {0, 2, 1, 3}), (std::set<TokenId>{1, 3}));
  EXPECT_EQ(Drawn(params, {5, 1, 5, 5}), (std::set<TokenId>{0, 2}));
  ExpectShares(params, Logs({0.2, 0.1, 0.6, 0.1}), {0.25, 0, 0.75, 0});
  params.top_k = 1;
  EXPECT_EQ(Drawn(params, {5, 6, 6}), (std::set<TokenId>{1}));
  params.top_k = 100;  // more than there are
  EXPECT_EQ(Drawn(params, {1, 1, 1}).size(), 3u);
}

TEST(SamplerTopK, CountsOnlyWhatCanBeDrawn) {
  SamplingParams params = Plain();
  params.top_k = 2;
  EXPECT_EQ(Drawn(params, {kNan, kNan, -kInf, 0, 1, 0.5f}), (std::set<TokenId>{4, 5}));
}

TEST(SamplerTopP, KeepsTheSmallestSetThatReachesP) {
  const std::vector<float> logits = Logs({0.2, 0.5, 0.3});
  SamplingParams params = Plain();
  params.top_p = 0.45f;
  EXPECT_EQ(Drawn(params, logits), (std::set<TokenId>{1}));
  params.top_p = 0.55f;
  EXPECT_EQ(Drawn(params, logits), (std::set<TokenId>{1, 2}));
  ExpectShares(params, logits, {0, 0.625, 0.375});
  params.top_p = 0.85f;
  EXPECT_EQ(Drawn(params, logits).size(), 3u);
  params.top_p = 1e-9f;  // one is always left
  EXPECT_EQ(Drawn(params, logits), (std::set<TokenId>{1}));
}

TEST(SamplerTopP, ComesAfterTopK) {
  // Of all, {0, 1, 2} hold 0.6 of the mass; of the best two, token 0 holds 0.6.
  const std::vector<float> logits = Logs({0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1});
  SamplingParams params = Plain();
  params.top_p = 0.55f;
  EXPECT_EQ(Drawn(params, logits), (std::set<TokenId>{0, 1, 2}));
  params.top_k = 2;
  EXPECT_EQ(Drawn(params, logits), (std::set<TokenId>{0}));
}

TEST(SamplerTopP, ComesAfterTheTemperature) {
  SamplingParams params = Plain();
  params.top_p = 0.85f;
  EXPECT_EQ(Drawn(params, Logs({0.75, 0.25})).size(), 2u);
  params.temperature = 0.5f;  // 0.9 and 0.1
  EXPECT_EQ(Drawn(params, Logs({0.75, 0.25})).size(), 1u);
}

TEST(SamplerMinP, IsRelativeToTheLargest) {
  const std::vector<float> logits = Logs({0.5, 0.3, 0.15, 0.05});
  SamplingParams params = Plain();
  params.min_p = 0.25f;  // 0.125
  EXPECT_EQ(Drawn(params, logits), (std::set<TokenId>{0, 1, 2}));
  params.min_p = 0.5f;
  EXPECT_EQ(Drawn(params, logits), (std::set<TokenId>{0, 1}));
  ExpectShares(params, logits, {0.625, 0.375, 0, 0});
  params.min_p = 1;  // only equals of the largest
  EXPECT_EQ(Drawn(params, {2, 1, 2}), (std::set<TokenId>{0, 2}));
}

TEST(SamplerLogitBias, IsAddedBeforeAnythingElse) {
  SamplingParams params = GreedyParams();
  params.logit_bias = {{0, 3.5f}, {2, -1.0f}};
  std::vector<float> logits = {1, 4, 5};
  EXPECT_EQ(Sampler(params, {}).Sample(logits), 0);
  EXPECT_THAT(logits, ElementsAre(4.5f, 4, 4));
}

TEST(SamplerLogitBias, OfMinusInfinityBans) {
  SamplingParams params = Plain();
  params.logit_bias = {{1, -kInf}, {2, -kInf}};
  EXPECT_EQ(Drawn(params, {0, 50, kInf, 0}), (std::set<TokenId>{0, 3}));
  params.temperature = 0;
  EXPECT_EQ(SampleOnce(params, {0, 50, kInf, 1}), 3);
}

TEST(SamplerPenalties, RepetitionDividesOrMultiplies) {
  SamplingParams params = GreedyParams();
  params.repetition_penalty = 2;
  const std::vector<TokenId> prompt = {0, 1, 1};
  std::vector<float> logits = {6, -3, 4, 0};
  EXPECT_EQ(Sampler(params, prompt).Sample(logits), 2);
  EXPECT_THAT(logits, ElementsAre(3, -6, 4, 0));  // once, however often the token occurred
}

TEST(SamplerPenalties, PresenceCountsOnceFrequencyEachTime) {
  SamplingParams params = GreedyParams();
  params.presence_penalty = 0.5f;
  const std::vector<TokenId> prompt = {0, 1, 1, 1};
  std::vector<float> logits = {6, 6, 6};
  EXPECT_EQ(Sampler(params, prompt).Sample(logits), 2);
  EXPECT_THAT(logits, ElementsAre(5.5f, 5.5f, 6));

  params.presence_penalty = 0;
  params.frequency_penalty = 0.25f;
  logits = {6, 6, 1};
  EXPECT_EQ(Sampler(params, prompt).Sample(logits), 0);
  EXPECT_THAT(logits, ElementsAre(5.75f, 5.25f, 1));

  params.repetition_penalty = 2;  // first divided, then subtracted
  params.presence_penalty = -1;
  logits = {6, 6, 1};
  EXPECT_EQ(Sampler(params, prompt).Sample(logits), 0);
  EXPECT_THAT(logits, ElementsAre(3.75f, 3.25f, 1));
}

TEST(SamplerPenalties, SeeTheTokensThatWereSampled) {
  SamplingParams params = GreedyParams();
  params.frequency_penalty = 1;
  EXPECT_THAT(Draws(params, {3, 2.5f, -9}, 6), ElementsAre(0, 1, 0, 1, 0, 1));
}

TEST(SamplerPenalties, LookAtTheWindowOnly) {
  SamplingParams params = GreedyParams();
  params.frequency_penalty = 1;
  params.penalty_window = 3;
  const std::vector<TokenId> prompt = {0, 0, 1, 2, 1};  // the window begins with {1, 2, 1}
  Sampler sampler(params, prompt);
  std::vector<float> logits(5);
  const auto penalised = [&](TokenId forced) {
    logits.assign(5, 0);
    logits[static_cast<size_t>(forced)] = 100;
    EXPECT_EQ(sampler.Sample(logits), forced);
    logits[static_cast<size_t>(forced)] -= 100;
    return logits;
  };
  EXPECT_THAT(penalised(3), ElementsAre(0, -2, -1, 0, 0));
  EXPECT_THAT(penalised(3), ElementsAre(0, -1, -1, -1, 0));  // {2, 1, 3}
  EXPECT_THAT(penalised(4), ElementsAre(0, -1, 0, -2, 0));   // {1, 3, 3}
  EXPECT_THAT(penalised(0), ElementsAre(0, 0, 0, -2, -1));   // {3, 3, 4}
  EXPECT_THAT(penalised(0), ElementsAre(-1, 0, 0, -1, -1));  // {3, 4, 0}

  params.penalty_window = 0;
  Sampler without(params, prompt);
  logits = {1, 2, 3, 2, 1};
  EXPECT_EQ(without.Sample(logits), 2);
  EXPECT_THAT(logits, ElementsAre(1, 2, 3, 2, 1));
}

TEST(SamplerPenalties, ForgetWhatLeftTheWindow) {
  SamplingParams params = GreedyParams();
  params.presence_penalty = 1;
  params.penalty_window = 1;
  std::vector<float> logits;
  Sampler sampler(params, {});
  for (const TokenId expected : {0, 1, 0, 1}) {
    logits = {3, 2.5f, -9};
    EXPECT_EQ(sampler.Sample(logits), expected);
  }
  EXPECT_THAT(logits, ElementsAre(2, 2.5f, -9));
}

TEST(SamplerPenalties, IgnorePromptTokensOutsideTheVocabulary) {
  SamplingParams params = GreedyParams();
  params.presence_penalty = 1;
  const std::vector<TokenId> prompt = {-1, 3, 2000000000, 1};
  std::vector<float> logits = {0, 0, -9};
  EXPECT_EQ(Sampler(params, prompt).Sample(logits), 0);
  EXPECT_THAT(logits, ElementsAre(0, -1, -9));
}

TEST(SamplerSeed, DecidesTheTokens) {
  const std::vector<float> logits(100, 0.0f);
  EXPECT_EQ(Draws(Plain(3), logits, 50), Draws(Plain(3), logits, 50));
  EXPECT_NE(Draws(Plain(3), logits, 50), Draws(Plain(4), logits, 50));
  EXPECT_EQ(Sampler(Plain(3), {}).seed(), 3u);
}

TEST(SamplerSeed, IsRandomAndReportedWhenUnset) {
  SamplingParams params = Plain();
  params.seed.reset();
  Sampler first(params, {}), second(params, {});
  EXPECT_NE(first.seed(), second.seed());
  std::vector<float> logits(1000, 0.0f);
  std::vector<TokenId> tokens;
  for (int i = 0; i < 20; ++i) tokens.push_back(first.Sample(logits));
  EXPECT_EQ(Draws(Plain(first.seed()), logits, 20), tokens);
}

// Frozen: another C library, compiler or CPU must draw the same.
TEST(SamplerSeed, GivesTheSameTokensEverywhere) {
  std::vector<float> logits;
  for (int i = 0; i < 1000; ++i) logits.push_back(static_cast<float>((i * 7919) % 1000) / 128.0f);
  EXPECT_THAT(Draws(Plain(42), logits, 8), ElementsAre(780, 51, 459, 99, 979, 173, 310, 260));
  SamplingParams params;
  params.seed = 42;
  EXPECT_THAT(Draws(params, logits, 8), ElementsAre(988, 383, 988, 605, 914, 284, 741, 173));
}

TEST(SamplerFilters, ThatRemoveNothingChangeNothing) {
  std::vector<float> logits;
  for (int i = 0; i < 300; ++i) logits.push_back(static_cast<float>((i * 7919) % 300) / 64.0f);
  const std::vector<TokenId> plain = Draws(Plain(9), logits, 500);
  SamplingParams params = Plain(9);
  params.top_k = 300;
  EXPECT_EQ(Draws(params, logits, 500), plain);
  params.min_p = 1e-6f;
  EXPECT_EQ(Draws(params, logits, 500), plain);
  params.top_p = 0.9999999f;
  EXPECT_EQ(Draws(params, logits, 500), plain);
}

// The definition: sort everything, cut three times, draw.
TokenId DrawSlowly(const SamplingParams& params, const std::vector<float>& logits, double uniform) {
  std::vector<std::pair<double, TokenId>> sorted;
  for (size_t i = 0; i < logits.size(); ++i) {
    sorted.emplace_back(-static_cast<double>(logits[i]), static_cast<TokenId>(i));
  }
  std::sort(sorted.begin(), sorted.end());
  if (params.top_k > 0 && params.top_k < sorted.size()) sorted.resize(params.top_k);
  const double best = sorted[0].first;
  double sum = 0;
  for (auto& entry : sorted) {
    entry.first = std::exp((best - entry.first) / params.temperature);
    sum += entry.first;
  }
  double kept_sum = 0;
  size_t kept = 0;
  while (kept < sorted.size() && kept_sum < params.top_p * sum) kept_sum += sorted[kept++].first;
  sorted.resize(kept);
  while (sorted.back().first < params.min_p) {
    kept_sum -= sorted.back().first;
    sorted.pop_back();
  }
  double passed = 0;
  for (const auto& [weight, id] : sorted) {
    passed += weight;
    if (passed > uniform * kept_sum) return id;
  }
  return sorted.back().second;
}

TEST(Sampler, AgreesWithTheDefinitionOnRandomParameters) {
  std::mt19937_64 rng(13);
  const auto uniform = [&rng] { return static_cast<double>(rng() >> 11) * 0x1p-53; };
  for (int round = 0; round < 300; ++round) {
    std::vector<float> logits(1 + rng() % 3000);
    for (float& logit : logits) logit = static_cast<float>(12 * uniform() - 6);
    SamplingParams params = Plain(rng());
    params.temperature = static_cast<float>(0.1 + 3 * uniform());
    if (rng() % 2) params.top_k = 1 + rng() % 500;
    if (rng() % 2) params.top_p = static_cast<float>(0.01 + 0.98 * uniform());
    if (rng() % 2) params.min_p = static_cast<float>(0.3 * uniform());
    std::mt19937_64 same(*params.seed);
    for (const TokenId token : Draws(params, logits, 5)) {
      const double drawn = static_cast<double>(same() >> 11) * 0x1p-53;
      ASSERT_EQ(token, DrawSlowly(params, logits, drawn))
          << "round " << round << ", top_k " << params.top_k << ", top_p " << params.top_p
          << ", min_p " << params.min_p << ", temperature " << params.temperature;
    }
  }
}

TEST(ValidateSamplingParams, AcceptsTheEndsOfTheRanges) {
  EXPECT_TRUE(ValidateSamplingParams({}, 10).ok());
  SamplingParams params;
  params.temperature = 0;
  params.top_p = 1;
  params.min_p = 1;
  params.repetition_penalty = 10;
  params.presence_penalty = -10;
  params.frequency_penalty = 10;
  params.logit_bias = {{0, -kInf}, {9, 100.0f}};
  EXPECT_TRUE(ValidateSamplingParams(params, 10).ok());
  params.temperature = 100;
  params.min_p = 0;
  EXPECT_TRUE(ValidateSamplingParams(params, 10).ok());
}

TEST(ValidateSamplingParams, NamesFieldValueAndRange) {
  struct Case {
    const char* message;
    void (*spoil)(SamplingParams&);
  };
  const Case cases[] = {
      {"temperature is -0.5; it must be in [0, 100]", [](auto& p) { p.temperature = -0.5f; }},
      {"temperature is 101;", [](auto& p) { p.temperature = 101; }},
      {"temperature is nan;", [](auto& p) { p.temperature = kNan; }},
      {"temperature is inf;", [](auto& p) { p.temperature = kInf; }},
      {"top_p is 0; it must be in (0, 1]", [](auto& p) { p.top_p = 0; }},
      {"top_p is 1.5;", [](auto& p) { p.top_p = 1.5f; }},
      {"top_p is nan;", [](auto& p) { p.top_p = kNan; }},
      {"min_p is -1; it must be in [0, 1]", [](auto& p) { p.min_p = -1; }},
      {"min_p is 2;", [](auto& p) { p.min_p = 2; }},
      {"min_p is nan;", [](auto& p) { p.min_p = kNan; }},
      {"repetition_penalty is 0; it must be in (0, 10]", [](auto& p) { p.repetition_penalty = 0; }},
      {"repetition_penalty is 11;", [](auto& p) { p.repetition_penalty = 11; }},
      {"repetition_penalty is nan;", [](auto& p) { p.repetition_penalty = kNan; }},
      {"presence_penalty is 10.5; it must be in [-10, 10]",
       [](auto& p) { p.presence_penalty = 10.5f; }},
      {"presence_penalty is nan;", [](auto& p) { p.presence_penalty = kNan; }},
      {"frequency_penalty is -11; it must be in [-10, 10]",
       [](auto& p) { p.frequency_penalty = -11; }},
      {"frequency_penalty is -inf;", [](auto& p) { p.frequency_penalty = -kInf; }},
      {"logit_bias has token 10; ids of this model are in [0, 10)",
       [](auto& p) {
         p.logit_bias = {{10, 1.0f}};
       }},
      {"logit_bias has token -1;",
       [](auto& p) {
         p.logit_bias = {{0, 1.0f}, {-1, 1.0f}};
       }},
      {"logit_bias of token 3 is inf;",
       [](auto& p) {
         p.logit_bias = {{3, kInf}};
       }},
      {"logit_bias of token 4 is nan;",
       [](auto& p) {
         p.logit_bias = {{4, kNan}};
       }},
  };
  for (const Case& c : cases) {
    SamplingParams params;
    c.spoil(params);
    const absl::Status status = ValidateSamplingParams(params, 10);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

}  // namespace tidegate::sampler_test
