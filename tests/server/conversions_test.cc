#include "server/conversions.h"

#include <gtest/gtest.h>

#include <set>

namespace tidegate::conversions_test {

TEST(Conversions, ModesGoThereAndBack) {
  for (const DecodeMode mode : {DecodeMode::kDense, DecodeMode::kDip, DecodeMode::kDipCa}) {
    EXPECT_EQ(FromProto(ToProto(mode)), mode);
  }
  EXPECT_FALSE(FromProto(v1::DECODE_MODE_UNSPECIFIED).has_value());
  EXPECT_FALSE(FromProto(static_cast<v1::DecodeMode>(77)).has_value());
}

TEST(Conversions, EveryReasonHasItsOwnName) {
  std::set<v1::FinishReason> seen;
  for (uint32_t reason = 1; reason <= static_cast<uint32_t>(FinishReason::kError); ++reason) {
    const v1::FinishReason proto = ToProto(static_cast<FinishReason>(reason));
    EXPECT_NE(proto, v1::FINISH_REASON_UNSPECIFIED);
    EXPECT_TRUE(seen.insert(proto).second) << proto;
  }
}

TEST(Conversions, RatesOfAnEmptyStreamAreZero) {
  const v1::Finished finished = ToProto(GenerationResult());
  EXPECT_EQ(finished.timings().tokens_per_second(), 0);
  EXPECT_EQ(finished.flash().bytes_per_token(), 0);
  EXPECT_EQ(finished.flash().hit_rate(), 0);
}

TEST(Conversions, AccountsAddUp) {
  GenerationResult result;
  result.reason = FinishReason::kStopToken;
  result.stop_token = 12;
  result.accounts.prompt_tokens = 10;
  result.accounts.generated_tokens = 5;
  result.accounts.decode_seconds = 2;
  result.accounts.decode_flash_bytes = 1000;
  result.accounts.hit_units = 3;
  result.accounts.miss_units = 1;
  const v1::Finished finished = ToProto(result);
  EXPECT_EQ(finished.stop_token(), 12u);
  EXPECT_EQ(finished.usage().total_tokens(), 15u);
  EXPECT_DOUBLE_EQ(finished.timings().tokens_per_second(), 2);
  EXPECT_DOUBLE_EQ(finished.flash().bytes_per_token(), 200);
  EXPECT_DOUBLE_EQ(finished.flash().hit_rate(), 0.75);
}

TEST(Conversions, OnlySteeredStreamsHaveALadder) {
  GenerationResult result;
  result.accounts.density = 0.5;
  result.accounts.gamma = 0.25;
  EXPECT_EQ(ToProto(result).pruning().density(), 0.5);
  EXPECT_EQ(ToProto(result).pruning().gamma(), 0.25);
  EXPECT_FALSE(ToProto(result).pruning().has_predicted_perplexity_increase());
  EXPECT_FALSE(ToProto(result).pruning().has_fastest_position());
  result.accounts.ladder = {
      .most_accurate = 0, .fastest = 3, .predicted_perplexity_increase = 0.02};
  const v1::PruningAccounts pruning = ToProto(result).pruning();
  EXPECT_EQ(pruning.predicted_perplexity_increase(), 0.02);
  EXPECT_TRUE(pruning.has_most_accurate_position());
  EXPECT_EQ(pruning.fastest_position(), 3u);
}

TEST(Conversions, StartedShowsWhatTakesEffect) {
  GenerationRequest request;
  request.pruning.mode = DecodeMode::kDipCa;
  request.pruning.density = 0.5f;
  request.pruning.gamma = 0.25f;
  EXPECT_FLOAT_EQ(MakeStarted("r", "m", request, {}).gamma(), 0.25f);
  request.pruning.reproducible = true;
  EXPECT_FLOAT_EQ(MakeStarted("r", "m", request, {}).gamma(), 1);
  request.pruning.reproducible = false;
  request.pruning.mode = DecodeMode::kDense;
  EXPECT_FLOAT_EQ(MakeStarted("r", "m", request, {}).gamma(), 1);
  EXPECT_FLOAT_EQ(MakeStarted("r", "m", request, {}).density(), 1);
}

TEST(Conversions, StartedShowsTheLadderOfASteeredRequest) {
  const SteeringStats steering = {.points = 3, .density = 0.625, .gamma = 0.5};
  GenerationRequest request;
  request.pruning.density = 0.75f;
  EXPECT_FLOAT_EQ(MakeStarted("r", "m", request, steering).density(), 0.75f);
  request.pruning.steered = true;
  EXPECT_FLOAT_EQ(MakeStarted("r", "m", request, {}).density(), 0.75f);
  EXPECT_FLOAT_EQ(MakeStarted("r", "m", request, steering).density(), 0.625f);
  EXPECT_FLOAT_EQ(MakeStarted("r", "m", request, steering).gamma(), 0.5f);
  request.pruning.reproducible = true;
  EXPECT_FLOAT_EQ(MakeStarted("r", "m", request, steering).gamma(), 1);
}

}  // namespace tidegate::conversions_test
