#include "engine/logprobs.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tidegate::logprobs_test {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<TokenId> Ids(const TokenLogprobs& logprobs) {
  std::vector<TokenId> ids;
  for (const TopLogprob& one : logprobs.top) ids.push_back(one.id);
  return ids;
}

TEST(Logprobs, AreTheLogarithmsOfTheSoftmax) {
  std::vector<float> logits;
  for (const double p : {0.1, 0.4, 0.2, 0.3}) logits.push_back(static_cast<float>(std::log(p)) + 7);
  const TokenLogprobs got = LogprobsOf(logits, 2, 3);
  EXPECT_NEAR(got.logprob, std::log(0.2), 1e-6);
  EXPECT_EQ(Ids(got), (std::vector<TokenId>{1, 3, 2}));
  EXPECT_NEAR(got.top[0].logprob, std::log(0.4), 1e-6);
  EXPECT_EQ(got.top[2].logprob, got.logprob);
}

TEST(Logprobs, OfAllTokensAddUpToOne) {
  std::vector<float> logits;
  for (int i = 0; i < 1000; ++i) logits.push_back(static_cast<float>(i % 97) * 0.37f - 11);
  double sum = 0;
  for (const TopLogprob& one : LogprobsOf(logits, 0, 1000).top) sum += std::exp(one.logprob);
  EXPECT_NEAR(sum, 1, 1e-12);
}

TEST(Logprobs, GiveEqualsInTheOrderOfIds) {
  EXPECT_EQ(Ids(LogprobsOf(std::vector<float>{1, 2, 2, 0, 2}, 0, 2)), (std::vector<TokenId>{1, 2}));
}

TEST(Logprobs, NoneIsMoreThanThereAre) {
  EXPECT_TRUE(LogprobsOf(std::vector<float>{1, 2}, 0, 0).top.empty());
  EXPECT_EQ(Ids(LogprobsOf(std::vector<float>{1, -kInf, kNan, 2}, 0, 20)),
            (std::vector<TokenId>{3, 0}));
}

TEST(Logprobs, BannedTokensAreImpossible) {
  const std::vector<float> logits = {1, -kInf, kNan};
  EXPECT_EQ(LogprobsOf(logits, 0, 0).logprob, 0);
  EXPECT_EQ(LogprobsOf(logits, 1, 0).logprob, -kInf);
  EXPECT_EQ(LogprobsOf(logits, 2, 0).logprob, -kInf);
  EXPECT_EQ(LogprobsOf(std::vector<float>{-kInf, -kInf}, 0, 5).logprob, -kInf);
  EXPECT_TRUE(LogprobsOf(std::vector<float>{-kInf, -kInf}, 0, 5).top.empty());
}

TEST(Logprobs, InfinitiesShareTheProbability) {
  const TokenLogprobs got = LogprobsOf(std::vector<float>{kInf, 3, kInf}, 1, 3);
  EXPECT_EQ(got.logprob, -kInf);
  EXPECT_NEAR(got.top[0].logprob, std::log(0.5), 1e-12);
  EXPECT_NEAR(got.top[1].logprob, std::log(0.5), 1e-12);
}

TEST(Logprobs, LargeLogitsDoNotOverflow) {
  const TokenLogprobs got = LogprobsOf(std::vector<float>{3e38f, -3e38f}, 0, 0);
  EXPECT_EQ(got.logprob, 0);
}

}  // namespace tidegate::logprobs_test
