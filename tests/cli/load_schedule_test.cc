#include "cli/load_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace tidegate::load_schedule_test {

using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Lt;

TEST(LoadScheduleTest, LengthsAreNumbersAndRanges) {
  const auto one = ParseLengthRange("64");
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->low, 64u);
  EXPECT_EQ(one->high, 64u);
  EXPECT_EQ(one->ToString(), "64");
  const auto range = ParseLengthRange("16-128");
  ASSERT_TRUE(range.ok()) << range.status();
  EXPECT_EQ(range->low, 16u);
  EXPECT_EQ(range->high, 128u);
  EXPECT_EQ(range->ToString(), "16-128");
  for (const char* wrong : {"", "0", "-5", "5-", "9-8", "0-4", "a-b", "1-2-3", "1.5", "99999999"}) {
    const absl::Status status = ParseLengthRange(wrong).status();
    EXPECT_THAT(std::string(status.message()), HasSubstr("'" + std::string(wrong) + "'"));
  }
}

TEST(LoadScheduleTest, AClosedLoopIsAlwaysDue) {
  ArrivalTimes arrivals(std::nullopt, ArrivalProcess::kPoisson, 1);
  for (int i = 0; i < 10; ++i) arrivals.Advance();
  EXPECT_EQ(arrivals.due(), 0);
}

TEST(LoadScheduleTest, ConstantArrivalsAreEquallyFarApart) {
  ArrivalTimes arrivals(4, ArrivalProcess::kConstant, 1);
  std::vector<double> due;
  for (int i = 0; i < 4; ++i) {
    due.push_back(arrivals.due());
    arrivals.Advance();
  }
  EXPECT_THAT(due, ElementsAre(0, 0.25, 0.5, 0.75));
}

// Of exponential gaps, mean and standard deviation are the same: 1 / rate.
TEST(LoadScheduleTest, PoissonArrivalsHaveExponentialGaps) {
  constexpr int kCount = 20000;
  ArrivalTimes arrivals(50, ArrivalProcess::kPoisson, 7), again(50, ArrivalProcess::kPoisson, 7),
      other(50, ArrivalProcess::kPoisson, 8);
  double squares = 0, last = 0;
  for (int i = 0; i < kCount; ++i) {
    arrivals.Advance();
    again.Advance();
    other.Advance();
    ASSERT_EQ(arrivals.due(), again.due());
    const double gap = arrivals.due() - last;
    ASSERT_GE(gap, 0);
    squares += gap * gap;
    last = arrivals.due();
  }
  EXPECT_NE(arrivals.due(), other.due());
  const double mean = last / kCount;
  EXPECT_NEAR(mean, 0.02, 0.02 * 0.03);
  EXPECT_NEAR(std::sqrt(squares / kCount - mean * mean), 0.02, 0.02 * 0.05);
}

TEST(LoadScheduleTest, LengthsReachBothEndsOfTheirRanges) {
  const Workload workload = {
      .prompt_tokens = {3, 6}, .output_tokens = {1, 4}, .seed = 5, .vocab_size = 10};
  std::set<size_t> prompts, outputs;
  for (uint64_t i = 0; i < 200; ++i) {
    const PlannedRequest request = PlanRequest(workload, i);
    prompts.insert(request.prompt.size());
    outputs.insert(request.output_tokens);
    EXPECT_THAT(request.prompt, Each(Lt(10u)));
  }
  EXPECT_THAT(prompts, ElementsAre(3, 4, 5, 6));
  EXPECT_THAT(outputs, ElementsAre(1, 2, 3, 4));
}

TEST(LoadScheduleTest, ARequestDependsOnSeedAndNumberAlone) {
  Workload workload = {.prompt_tokens = {20, 40}, .seed = 1, .vocab_size = 1000};
  const PlannedRequest request = PlanRequest(workload, 3);
  PlanRequest(workload, 9);
  EXPECT_EQ(PlanRequest(workload, 3).prompt, request.prompt);
  EXPECT_EQ(PlanRequest(workload, 3).sampling_seed, request.sampling_seed);
  EXPECT_NE(PlanRequest(workload, 4).prompt, request.prompt);
  EXPECT_NE(PlanRequest(workload, 4).sampling_seed, request.sampling_seed);
  workload.seed = 2;
  EXPECT_NE(PlanRequest(workload, 3).prompt, request.prompt);
}

TEST(LoadScheduleTest, PrefixesAreSharedAndTheRestIsNot) {
  const Workload workload = {.prompt_tokens = {30, 30},
                             .shared_prefix = 20,
                             .seed = 1,
                             .vocab_size = 1u << 30,
                             .start = {1, 2}};
  const auto a = PlanRequest(workload, 0).prompt, b = PlanRequest(workload, 1).prompt;
  ASSERT_EQ(a.size(), 30u);
  EXPECT_THAT(std::vector<uint32_t>(a.begin(), a.begin() + 2), ElementsAre(1, 2));
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 20, b.begin()));
  for (size_t i = 20; i < 30; ++i) EXPECT_NE(a[i], b[i]) << i;
}

TEST(LoadScheduleTest, PromptsShorterThanWhatTheyBeginWithAreCutOff) {
  const Workload workload = {.prompt_tokens = {2, 2}, .shared_prefix = 9, .start = {7, 8, 9}};
  EXPECT_THAT(PlanRequest(workload, 0).prompt, ElementsAre(7, 8));
}

TEST(LoadScheduleTest, PromptsOfATextArePiecesOfIt) {
  Workload workload = {.prompt_tokens = {5, 5}, .vocab_size = 100, .text = {10, 11, 12, 13}};
  std::set<uint32_t> begins;
  for (uint64_t i = 0; i < 100; ++i) {
    const auto prompt = PlanRequest(workload, i).prompt;
    begins.insert(prompt[0]);
    for (size_t j = 1; j < prompt.size(); ++j) {
      EXPECT_EQ(prompt[j], prompt[j - 1] == 13 ? 10 : prompt[j - 1] + 1);
    }
  }
  EXPECT_EQ(begins.size(), 4u) << "every place is one to begin at";
  workload.shared_prefix = 3;
  for (uint64_t i = 0; i < 5; ++i) {
    const auto prompt = PlanRequest(workload, i).prompt;
    EXPECT_THAT(std::vector<uint32_t>(prompt.begin(), prompt.begin() + 3), ElementsAre(10, 11, 12));
  }
}

}  // namespace tidegate::load_schedule_test
