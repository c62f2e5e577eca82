// Measuring this machine: that every rate is one, that files go away, and what is refused. Nothing
// about how fast.
#include "measure/machine_speeds.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "base/units.h"
#include "measure/flash_meter.h"
#include "measure/kernel_meter.h"
#include "packer/pack_writer.h"
#include "packer/source_model.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::machine_speeds_test {

using ::testing::HasSubstr;

constexpr double kShortly = 0.002;

TEST(OverlapTest, SharesOfTwoRates) {
  EXPECT_DOUBLE_EQ(OverlapOf(2, 2, 5, 5), 1);  // neither notices the other
  EXPECT_DOUBLE_EQ(OverlapOf(2, 1, 4, 2), 0);  // as if they took turns
  EXPECT_DOUBLE_EQ(OverlapOf(2, 1, 4, 4), 0.5);
  EXPECT_DOUBLE_EQ(OverlapOf(2, 0, 4, 0), 0);  // worse than in turns
  EXPECT_DOUBLE_EQ(OverlapOf(2, 3, 4, 5), 1);  // noise
  EXPECT_DOUBLE_EQ(OverlapOf(0, 0, 4, 4), 0);
}

class SpeedsTest : public ::testing::Test {
 protected:
  void MakePack(UnitEncoding units) {
    LlamaGguf({}).WriteTo(dir_.File("m.gguf"));
    const auto source = SourceModel::Open(dir_.File("m.gguf"));
    PackOptions options;
    options.units = units;
    ASSERT_TRUE(WritePack(*source, dir_.File("m.tgpack"), options, nullptr).ok());
    const auto pack = PlannedPack(dir_.File("m.tgpack"), units);
    ASSERT_TRUE(pack.ok()) << pack.status();
    pack_ = *pack;
  }

  TempDir dir_;
  PackIndex pack_;
};

TEST_F(SpeedsTest, EveryEncodingHasRates) {
  for (const UnitEncoding units :
       {UnitEncoding::kF32, UnitEncoding::kF16, UnitEncoding::kQ8, UnitEncoding::kQ4}) {
    MakePack(units);
    KernelMeter meter(&pack_, Precision::kFast, 2);
    ASSERT_TRUE(meter.Prepare().ok());
    EXPECT_EQ(meter.threads(), 2u);
    EXPECT_GT(meter.StaticRate(0), 0);
    EXPECT_GT(meter.UnitRate(UnitKind::kInput, 0), 0);
    EXPECT_GT(meter.UnitRate(UnitKind::kHidden, 0), 0);
    const std::atomic<bool> stop = true;
    EXPECT_EQ(meter.AddUnits(stop), 0u);
  }
}

TEST_F(SpeedsTest, APackIsMeasured) {
  MakePack(UnitEncoding::kQ8);
  SpeedQuestion question;
  question.drive = dir_.File("m.tgpack");
  question.stream_bytes = 64 * kKiB;
  question.seconds = kShortly;
  const auto measured = MeasureSpeeds(pack_, question);
  ASSERT_TRUE(measured.ok()) << measured.status();
  const MachineSpeeds& speeds = measured->speeds;
  for (uint32_t k = 0; k < kUnitKinds; ++k) {
    EXPECT_GT(speeds.unit_rate[k], 0);
    EXPECT_GT(speeds.block_rate[k], 0);
  }
  EXPECT_GT(speeds.static_rate, 0);
  EXPECT_GT(speeds.stream_rate, 0);
  EXPECT_GT(speeds.read_seconds, 0);
  EXPECT_GE(speeds.overlap, 0);
  EXPECT_LE(speeds.overlap, 1);
  EXPECT_EQ(measured->stream_read_bytes, 64 * kKiB);
  EXPECT_FALSE(measured->flash.backend.empty());
}

TEST_F(SpeedsTest, ReadsEndAtOnceWhenTold) {
  MakePack(UnitEncoding::kQ8);
  const auto range = RangeOf(dir_.File("m.tgpack"));
  ASSERT_TRUE(range.ok()) << range.status();
  EXPECT_EQ(range->end - range->begin, pack_.header.blocks_bytes / 4096 * 4096);
  const auto meter = FlashMeter::Open(*range, /*queue_depth=*/4, /*alignment=*/512);
  ASSERT_TRUE(meter.ok()) << meter.status();
  const std::atomic<bool> stop = true;
  const auto none = (*meter)->Read(512, 4, /*seconds=*/3600, &stop);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(none->reads_per_second, 0);
  // More than the range has: all of it.
  const auto all = (*meter)->Read(kGiB, 1000, kShortly);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_GT(all->bytes_per_second, 0);
}

TEST_F(SpeedsTest, AFolderIsLeftAsItWas) {
  const auto range = RangeOf(dir_.path());
  ASSERT_TRUE(range.ok()) << range.status();
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path()));
  const auto meter = FlashMeter::Open(*range, 8, 4096);
  ASSERT_TRUE(meter.ok()) << meter.status();
  const auto rate = (*meter)->Read(32 * kKiB, 8, kShortly);
  ASSERT_TRUE(rate.ok()) << rate.status();
  EXPECT_GT(rate->reads_per_second, 0);
}

TEST_F(SpeedsTest, MistakesAreNamed) {
  EXPECT_TRUE(absl::IsNotFound(RangeOf(dir_.File("none")).status()));
  WriteFileOrDie(dir_.File("small"), "x");
  const absl::Status small = RangeOf(dir_.File("small")).status();
  EXPECT_THAT(std::string(small.message()), HasSubstr("name a folder with --drive"));
}

}  // namespace tidegate::machine_speeds_test
