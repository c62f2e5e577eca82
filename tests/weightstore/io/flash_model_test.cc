// The modelled device's arithmetic, on times that the test makes up, and the text form of a model.
#include "weightstore/io/flash_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <limits>
#include <string>

namespace tidegate::flash_model_test {

using std::chrono::microseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

TEST(FlashSchedule, LatencyAloneOverlaps) {
  FlashSchedule schedule({.latency = microseconds(80)});
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(schedule.Submit(microseconds(5), 4096), microseconds(85));
  }
}

TEST(FlashSchedule, BandwidthQueuesAcrossReads) {
  FlashSchedule schedule({.bytes_per_second = 1e9, .latency = microseconds(80)});
  // 1e6 bytes take 1000 us; three at once leave one after the other, each 80 us later.
  EXPECT_EQ(schedule.Submit(microseconds(0), 1'000'000), microseconds(1080));
  EXPECT_EQ(schedule.Submit(microseconds(0), 1'000'000), microseconds(2080));
  EXPECT_EQ(schedule.Submit(microseconds(0), 500'000), microseconds(2580));
}

TEST(FlashSchedule, IdlePipeStartsAtSubmission) {
  FlashSchedule schedule({.bytes_per_second = 1e9, .latency = microseconds(80)});
  EXPECT_EQ(schedule.Submit(microseconds(0), 1'000'000), microseconds(1080));
  EXPECT_EQ(schedule.Submit(microseconds(5000), 1'000'000), microseconds(6080));
}

TEST(FlashSchedule, ReadRateSpacesStarts) {
  FlashSchedule schedule({.latency = microseconds(10), .reads_per_second = 200e3});
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(schedule.Submit(microseconds(100), 4096), microseconds(110 + 5 * i)) << i;
  }
  // An idle device saves up no starts.
  EXPECT_EQ(schedule.Submit(seconds(1), 4096), seconds(1) + microseconds(10));
  EXPECT_EQ(schedule.Submit(seconds(1), 4096), seconds(1) + microseconds(15));
}

TEST(FlashSchedule, SlowerOfRateAndBandwidthDecides) {
  const FlashModel model{
      .bytes_per_second = 1e9, .latency = nanoseconds(0), .reads_per_second = 100e3};
  FlashSchedule small(model);
  FlashSchedule large(model);
  nanoseconds small_end{0}, large_end{0};
  for (int i = 0; i < 1000; ++i) {
    small_end = small.Submit(nanoseconds(0), 4096);
    large_end = large.Submit(nanoseconds(0), 65536);
  }
  EXPECT_EQ(small_end, microseconds(10) * 999 + nanoseconds(4096));  // starts 10 us apart
  EXPECT_EQ(large_end, nanoseconds(65536) * 1000);
}

TEST(FlashSchedule, UnlimitedModelCompletesAtOnce) {
  FlashSchedule schedule(FlashModel{});
  EXPECT_EQ(schedule.Submit(microseconds(7), 1 << 20), microseconds(7));
}

TEST(FlashSchedule, SlowestValidModelDoesNotOverflow) {
  const FlashModel model{.bytes_per_second = 1e6, .latency = seconds(10), .reads_per_second = 1};
  ASSERT_TRUE(ValidateFlashModel(model).ok());
  FlashSchedule schedule(model);
  nanoseconds last{0};
  constexpr uint64_t kLargestRead = kMaxSegments * uint64_t{std::numeric_limits<uint32_t>::max()};
  for (int i = 0; i < 4096; ++i) {
    const nanoseconds done = schedule.Submit(nanoseconds(0), kLargestRead);
    ASSERT_GT(done, last);
    last = done;
  }
}

TEST(FlashSchedule, AStallDelaysWhatComesAfterSoManyReads) {
  FlashSchedule schedule({.latency = microseconds(80), .stall_after = 2, .stall = seconds(3)});
  EXPECT_EQ(schedule.Submit(microseconds(5), 4096), microseconds(85));
  EXPECT_EQ(schedule.Submit(microseconds(6), 4096), microseconds(86));
  EXPECT_EQ(schedule.Submit(microseconds(7), 4096), seconds(3) + microseconds(87));
  EXPECT_EQ(schedule.Submit(microseconds(9), 4096), seconds(3) + microseconds(87));
  EXPECT_EQ(schedule.Submit(seconds(4), 4096), seconds(4) + microseconds(80));  // once
}

TEST(FlashSchedule, AStallForEver) {
  FlashSchedule schedule({.stall_after = 1});
  EXPECT_EQ(schedule.Submit(microseconds(5), 4096), microseconds(5));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(schedule.Submit(seconds(i + 1), 4096), FlashSchedule::kNever);
  }
}

TEST(ParseFlashModel, Stalls) {
  const auto model = ParseFlashModel("latency=80us,stall-after=5k,stall=1.5s");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->stall_after, 5000u);
  EXPECT_EQ(model->stall, std::chrono::milliseconds(1500));
  const auto for_ever = ParseFlashModel("stall-after=1");
  ASSERT_TRUE(for_ever.ok()) << for_ever.status();
  EXPECT_FALSE(for_ever->stall.has_value());
  for (const char* wrong : {"stall=3s", "stall-after=0", "stall-after=x", "stall-after=-1",
                            "stall-after=1,stall=2h", "stall-after=1e30"}) {
    EXPECT_FALSE(ParseFlashModel(wrong).ok()) << wrong;
  }
}

TEST(ParseFlashModel, AllParts) {
  const auto model = ParseFlashModel("bandwidth=1GB/s,latency=80us,iops=200k");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->bytes_per_second, 1e9);
  EXPECT_EQ(model->latency, microseconds(80));
  EXPECT_EQ(model->reads_per_second, 200e3);
}

TEST(ParseFlashModel, AnyOrderAndMissingPartsAreUnlimited) {
  const auto model = ParseFlashModel("iops=1.5M,bandwidth=512MiB");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->bytes_per_second, 512.0 * 1024 * 1024);
  EXPECT_EQ(model->latency, nanoseconds(0));
  EXPECT_EQ(model->reads_per_second, 1.5e6);
  const auto latency = ParseFlashModel("latency=0us");
  ASSERT_TRUE(latency.ok()) << latency.status();
  EXPECT_EQ(latency->bytes_per_second, 0);
  EXPECT_FALSE(latency->bad_from.has_value());
}

TEST(ParseFlashModel, ADriveMayBeBadFromSomewhereOn) {
  const auto model = ParseFlashModel("bad-from=1MiB");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->bad_from, 1024u * 1024);
  EXPECT_THAT(DescribeFlashModel(*model), HasSubstr("unreadable from byte 1048576"));
}

struct BadModel {
  const char* text;
  const char* message;
};

class ParseFlashModelErrors : public ::testing::TestWithParam<BadModel> {};

TEST_P(ParseFlashModelErrors, NameTheProblem) {
  const auto model = ParseFlashModel(GetParam().text);
  ASSERT_FALSE(model.ok());
  EXPECT_TRUE(absl::IsInvalidArgument(model.status())) << model.status();
  EXPECT_THAT(std::string(model.status().message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Texts, ParseFlashModelErrors,
    ::testing::Values(BadModel{"", "key=value"}, BadModel{"fast", "'fast'"},
                      BadModel{"speed=1GB/s", "unknown key 'speed'"},
                      BadModel{"bandwidth=-1GB/s", "-1GB"}, BadModel{"bandwidth=", "bandwidth="},
                      BadModel{"bandwidth=0", "leave it out"}, BadModel{"iops=0", "leave it out"},
                      BadModel{"iops=-5", "-5"}, BadModel{"latency=-80us", "-80us"},
                      BadModel{"latency=80", "80"}, BadModel{"latency=1h", "latency"},
                      BadModel{"bandwidth=10", "bandwidth"}, BadModel{"iops=nan", "nan"},
                      BadModel{"iops=1k,iops=2k", "given twice"},
                      BadModel{"latency=80us,", "key=value"}));

TEST(ValidateFlashModel, RefusesValuesSetInCode) {
  EXPECT_FALSE(ValidateFlashModel({.bytes_per_second = -1}).ok());
  EXPECT_FALSE(ValidateFlashModel({.latency = nanoseconds(-1)}).ok());
  EXPECT_FALSE(
      ValidateFlashModel({.reads_per_second = std::numeric_limits<double>::quiet_NaN()}).ok());
}

}  // namespace tidegate::flash_model_test
