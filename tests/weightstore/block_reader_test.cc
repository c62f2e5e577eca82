// The reader over a device in memory that the test drives by hand.
#include "weightstore/block_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "tests/support/tiny_pack.h"

namespace tidegate::block_reader_test {

using ::testing::HasSubstr;
constexpr UnitKind kIn = UnitKind::kInput;
constexpr UnitKind kHid = UnitKind::kHidden;

// Completes what was submitted when the test says so, with the bytes of a string.
class FakeDevice final : public FlashDevice {
 public:
  struct Read {
    uint64_t offset;
    std::vector<FlashSegment> segments;
    uint64_t tag;
  };
  explicit FakeDevice(std::string file) : file_(std::move(file)) {}

  uint32_t free_count() const override { return depth - in_flight(); }
  uint32_t in_flight() const override {
    return static_cast<uint32_t>(enqueued.size() + submitted.size());
  }
  void Enqueue(const FlashRead& read) override {
    enqueued.push_back({read.offset, {read.segments.begin(), read.segments.end()}, read.tag});
  }
  absl::Status Submit() override {
    ++submissions;
    if (!submit_error.ok()) return submit_error;
    submitted.insert(submitted.end(), enqueued.begin(), enqueued.end());
    enqueued.clear();
    return absl::OkStatus();
  }
  void Reap(std::vector<FlashCompletion>& completions) override {
    for (const Read& read : submitted) {
      uint64_t offset = read.offset;
      for (const FlashSegment& segment : read.segments) {
        std::memcpy(segment.data, file_.data() + offset, segment.bytes);
        if (damage.contains(offset) && damage[offset]-- > 0) segment.data[5] ^= std::byte{1};
        offset += segment.bytes;
      }
      const bool bad = offset > bad_from;
      completions.push_back({.tag = read.tag, .status = bad ? bad_status : absl::OkStatus()});
    }
    submitted.clear();
  }
  int event_fd() const override { return -1; }
  const FlashInfo& info() const override { return info_; }

  uint32_t depth = 8;
  absl::Status submit_error, bad_status;
  uint64_t bad_from = ~uint64_t{0};  // reads that reach beyond this offset fail with bad_status
  std::map<uint64_t, int> damage;    // offset of a segment: how many reads of it come back damaged
  int submissions = 0;
  std::vector<Read> enqueued, submitted;

 private:
  const std::string file_;
  FlashInfo info_;
};

class BlockReaderTest : public testing::Test {
 protected:
  BlockReaderTest()
      : pack_(MakeTinyPack(folder_.path())),
        device_(ReadFileOrDie(pack_.path)),
        memory_(4 << 20),
        reader_(&device_, &pack_.index, true, &stats_) {}

  BlockOrder OrderOf(uint32_t layer, UnitKind kind, uint32_t block, size_t place,
                     ReadPurpose purpose = ReadPurpose::kCache) {
    return {.layer = layer,
            .kind = kind,
            .block = block,
            .purpose = purpose,
            .target = memory_.data() + place * 8192,
            .place = static_cast<uint32_t>(place)};
  }
  // Submits and polls until nothing is left; the outcomes by (layer, kind, block).
  void Drain(BlockReader& reader) {
    for (int round = 0; round < 1000 && !reader.idle(); ++round) {
      (void)reader.Submit();
      reader.Poll([this](const BlockOrder& order, const absl::Status& status) {
        const std::string key = Key(order.layer, order.kind, order.block);
        EXPECT_FALSE(outcomes_.contains(key)) << key << " reported twice";
        outcomes_[key] = status;
        if (status.ok()) ExpectBytes(order);
      });
    }
    EXPECT_TRUE(reader.idle());
  }
  static std::string Key(uint32_t layer, UnitKind kind, uint32_t block) {
    return std::to_string(layer) + UnitKindName(kind) + std::to_string(block);
  }
  void ExpectBytes(const BlockOrder& order) const {
    if (!expect_bytes_) return;
    const std::string expected = pack_.Block(order.layer, order.kind, order.block);
    EXPECT_EQ(std::memcmp(order.target, expected.data(), expected.size()), 0);
  }
  uint64_t ReadBytes() const { return stats_.flash_read_bytes[0] + stats_.flash_read_bytes[1]; }

  TempDir folder_;
  TinyPack pack_;
  FakeDevice device_;
  std::vector<std::byte> memory_;
  StoreStats stats_;
  BlockReader reader_;
  std::map<std::string, absl::Status> outcomes_;
  bool expect_bytes_ = true;
};

TEST_F(BlockReaderTest, NeighboursBecomeOneRead) {
  EXPECT_TRUE(reader_.Order(OrderOf(1, kIn, 10, 0)));
  EXPECT_FALSE(reader_.Order(OrderOf(1, kIn, 11, 1)));  // Next on flash, next in memory.
  EXPECT_FALSE(reader_.Order(OrderOf(1, kIn, 12, 7)));  // Next on flash, elsewhere in memory.
  EXPECT_TRUE(reader_.Order(OrderOf(1, kIn, 14, 8)));   // A gap on flash.
  ASSERT_TRUE(reader_.Submit().ok());
  ASSERT_EQ(device_.submitted.size(), 2u);
  EXPECT_EQ(device_.submitted[0].offset, pack_.FileOffset(1, kIn, 10));
  ASSERT_EQ(device_.submitted[0].segments.size(), 2u);
  EXPECT_EQ(device_.submitted[0].segments[0].bytes, 2 * 8192u);
  EXPECT_EQ(device_.submissions, 1);
  EXPECT_EQ(stats_.flash_in_flight, 2u);
  Drain(reader_);
  EXPECT_EQ(outcomes_.size(), 4u);
  for (const auto& [key, status] : outcomes_) EXPECT_TRUE(status.ok()) << key << status;
  EXPECT_EQ(stats_.flash_read_bytes[0], 4 * 8192u);
  EXPECT_EQ(stats_.flash_reads_ok, 2u);
  EXPECT_EQ(stats_.flash_in_flight, 0u);
}

TEST_F(BlockReaderTest, TheLastInputBlockAndTheFirstHiddenBlockAreNeighbours) {
  EXPECT_TRUE(reader_.Order(OrderOf(0, kIn, 63, 0)));
  EXPECT_FALSE(reader_.Order(OrderOf(0, kHid, 0, 1)));
  Drain(reader_);
  EXPECT_TRUE(outcomes_[Key(0, kIn, 63)].ok());
  EXPECT_TRUE(outcomes_[Key(0, kHid, 0)].ok());
}

TEST_F(BlockReaderTest, PurposesAreNotMixedInOneRead) {
  EXPECT_TRUE(reader_.Order(OrderOf(0, kIn, 0, 0, ReadPurpose::kCache)));
  EXPECT_TRUE(reader_.Order(OrderOf(0, kIn, 1, 1, ReadPurpose::kStream)));
  Drain(reader_);
  EXPECT_EQ(stats_.flash_read_bytes[0], 8192u);
  EXPECT_EQ(stats_.flash_read_bytes[1], 8192u);
}

TEST_F(BlockReaderTest, ReadsStayWithinSegmentsAndSize) {
  for (uint32_t block = 0; block < 64; ++block) reader_.Order(OrderOf(0, kIn, block, 2 * block));
  for (uint32_t block = 0; block < 64; ++block) {
    reader_.Order(OrderOf(1, kIn, block, 200 + block));
  }
  ASSERT_TRUE(reader_.Submit().ok());
  for (const FakeDevice::Read& read : device_.submitted) {
    uint64_t bytes = 0;
    for (const FlashSegment& segment : read.segments) bytes += segment.bytes;
    EXPECT_LE(bytes, 1u << 20);
    EXPECT_LE(read.segments.size(), kMaxSegments);
  }
  Drain(reader_);
  EXPECT_EQ(outcomes_.size(), 128u);
  EXPECT_EQ(ReadBytes(), 128 * 8192u);
}

TEST_F(BlockReaderTest, AFullDeviceGetsTheRestLater) {
  device_.depth = 2;
  for (uint32_t block = 0; block < 20; block += 2) reader_.Order(OrderOf(0, kIn, block, block));
  ASSERT_TRUE(reader_.Submit().ok());
  EXPECT_EQ(device_.submitted.size(), 2u);
  EXPECT_FALSE(reader_.idle());
  Drain(reader_);
  EXPECT_EQ(outcomes_.size(), 10u);
}

TEST_F(BlockReaderTest, DamageOnTheWayIsReadAgain) {
  device_.damage[pack_.FileOffset(0, kHid, 9)] = 1;
  reader_.Order(OrderOf(0, kHid, 9, 0));
  Drain(reader_);
  EXPECT_TRUE(outcomes_[Key(0, kHid, 9)].ok());
  EXPECT_EQ(stats_.flash_reads_corrupt, 1u);
  EXPECT_EQ(stats_.corrupt_blocks, 0u);
  EXPECT_EQ(ReadBytes(), 2 * 4096u);
}

TEST_F(BlockReaderTest, DamageThatStaysIsReportedByNameAndCountedOnce) {
  device_.damage[pack_.FileOffset(1, kHid, 5)] = 100;
  for (int attempt = 1; attempt <= 2; ++attempt) {
    outcomes_.clear();
    reader_.Order(OrderOf(1, kHid, 4, 0));
    reader_.Order(OrderOf(1, kHid, 5, 1));
    reader_.Order(OrderOf(1, kHid, 6, 2));
    Drain(reader_);
    const absl::Status& bad = outcomes_[Key(1, kHid, 5)];
    EXPECT_EQ(bad.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(bad.message()), HasSubstr("layer 1, hidden units, block 5"));
    EXPECT_TRUE(outcomes_[Key(1, kHid, 4)].ok());
    EXPECT_TRUE(outcomes_[Key(1, kHid, 6)].ok());
    EXPECT_EQ(stats_.corrupt_blocks, 1u);
    EXPECT_EQ(stats_.flash_reads_corrupt, 2u * attempt);
  }
}

TEST_F(BlockReaderTest, WithoutVerificationBytesAreHandedOutAsTheyAre) {
  BlockReader unverified(&device_, &pack_.index, false, &stats_);
  device_.damage[pack_.FileOffset(0, kIn, 3)] = 1;
  expect_bytes_ = false;
  unverified.Order(OrderOf(0, kIn, 3, 0));
  Drain(unverified);
  EXPECT_TRUE(outcomes_[Key(0, kIn, 3)].ok());
  EXPECT_EQ(stats_.flash_reads_corrupt, 0u);
}

// What the device says of a failed read, and what that is to whoever waits for a block of it.
struct FailedRead {
  const char* name;
  absl::Status device;
  const char* remedy;
};
class FailedReadTest : public BlockReaderTest, public testing::WithParamInterface<FailedRead> {};
INSTANTIATE_TEST_SUITE_P(
    All, FailedReadTest,
    testing::Values(FailedRead{"Drive", absl::UnavailableError("Input/output error"), "the drive"},
                    FailedRead{"CutOff", absl::OutOfRangeError("file ends at offset 12"),
                               "pack the model again"}),
    [](const auto& row) { return std::string(row.param.name); });

TEST_P(FailedReadTest, IsLostDataOfThoseBlocksAloneThatCannotBeRead) {
  device_.bad_status = GetParam().device;
  device_.bad_from = pack_.FileOffset(0, kIn, 30);
  for (uint32_t block = 26; block < 34; ++block) reader_.Order(OrderOf(0, kIn, block, block - 26));
  testing::internal::CaptureStderr();
  Drain(reader_);
  const std::string log = testing::internal::GetCapturedStderr();
  ASSERT_EQ(outcomes_.size(), 8u);
  for (uint32_t block = 26; block < 34; ++block) {
    const absl::Status& status = outcomes_[Key(0, kIn, block)];
    if (block < 30) {
      EXPECT_TRUE(status.ok()) << block << ": " << status;
      continue;
    }
    const std::string message(status.message());
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(message, HasSubstr("layer 0, input units, block " + std::to_string(block)));
    EXPECT_THAT(message, HasSubstr(std::string(GetParam().device.message())));
    EXPECT_THAT(message, HasSubstr(GetParam().remedy));
  }
  EXPECT_EQ(stats_.flash_reads_failed, 1u + 4u);
  EXPECT_EQ(stats_.corrupt_blocks, 0u);
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
  EXPECT_THAT(log, HasSubstr("error: cannot read layer 0, input units, block 30"));
}

TEST_F(BlockReaderTest, ADamagedBlockOfAReadThatFailedIsStillReadTwice) {
  device_.bad_status = absl::UnavailableError("Input/output error");
  device_.bad_from = pack_.FileOffset(0, kIn, 31);
  device_.damage[pack_.FileOffset(0, kIn, 30)] = 2;  // in the merged read and in the next
  reader_.Order(OrderOf(0, kIn, 30, 0));
  reader_.Order(OrderOf(0, kIn, 31, 1));
  Drain(reader_);
  EXPECT_TRUE(outcomes_[Key(0, kIn, 30)].ok()) << outcomes_[Key(0, kIn, 30)];
  EXPECT_EQ(outcomes_[Key(0, kIn, 31)].code(), absl::StatusCode::kDataLoss);
}

TEST_F(BlockReaderTest, ManyDamagedBlocksAreOneLine) {
  for (uint32_t block = 0; block < 40; ++block) {
    device_.damage[pack_.FileOffset(0, kHid, block)] = 2;
    reader_.Order(OrderOf(0, kHid, block, block));
  }
  testing::internal::CaptureStderr();
  Drain(reader_);
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_EQ(stats_.corrupt_blocks, 40u);
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
}

TEST_F(BlockReaderTest, ASubmissionThatFailedIsTriedAgainWithoutNewOrders) {
  device_.submit_error = absl::UnavailableError("try again");
  reader_.Order(OrderOf(0, kIn, 0, 0));
  EXPECT_FALSE(reader_.Submit().ok());
  EXPECT_FALSE(reader_.Submit().ok());
  device_.submit_error = absl::OkStatus();
  Drain(reader_);
  EXPECT_TRUE(outcomes_[Key(0, kIn, 0)].ok());
  const int submissions = device_.submissions;
  EXPECT_TRUE(reader_.Submit().ok());
  EXPECT_EQ(device_.submissions, submissions) << "nothing to submit, no system call";
}

}  // namespace tidegate::block_reader_test
