// Weights that are damaged or cannot be read: who is told, in which words, and who is not hurt.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "tests/support/store_fixture.h"

namespace tidegate::damaged_weights_test {

using ::testing::HasSubstr;
constexpr UnitKind kHid = UnitKind::kHidden;
constexpr uint64_t kHidBytes = 4096;  // of a block of the tiny pack

// The bad block, by both ways that a block can come.
class BadBlockTest : public StoreFixture, public testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Policies, BadBlockTest, testing::Values("value", "lfu", "none"));

TEST_P(BadBlockTest, IsNamedNeverDeliveredAndHurtsNoOther) {
  options_.policy = GetParam();
  pack_.FlipByte(1, kHid, 20);
  StartStore();
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  const auto wanted = Wanted(16, 24);
  for (int attempt = 0; attempt < 2; ++attempt) {
    WeightLease lease = Acquire(*client, 1, kHid, wanted);
    const auto bad = lease.Wait(4);
    EXPECT_EQ(bad.status().code(), absl::StatusCode::kDataLoss) << bad.status();
    EXPECT_THAT(std::string(bad.status().message()), HasSubstr("layer 1, hidden units, block 20"));
    EXPECT_EQ(lease.TryGet(4), nullptr);
    EXPECT_TRUE(lease.WaitArrival(wanted.size() - 1).ok()) << "a failed block arrives too";
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (i == 4) continue;
      const auto data = lease.Wait(i);
      ASSERT_TRUE(data.ok()) << data.status();
      EXPECT_EQ(std::memcmp(*data, pack_.Block(1, kHid, wanted[i].block).data(), kHidBytes), 0);
    }
  }
  EXPECT_EQ(stats().corrupt_blocks, 1u);
  EXPECT_EQ(stats().flash_reads_corrupt, 4u);  // Each attempt reads it twice.
  EXPECT_EQ(client->Residency(1, kHid)[20], 0u);
  EXPECT_TRUE(Becomes(stats().pinned_bytes, 0));
  pack_.FlipByte(1, kHid, 20);
  ExpectServes(*client, 1, kHid, wanted);
}

// Blocks from 20 on of layer 1's hidden units cannot be read: cut off, or a drive that fails.
class UnreadableTest : public StoreFixture, public testing::WithParamInterface<const char*> {
 protected:
  uint64_t End() const { return pack_.FileOffset(1, kHid, 20); }
  std::string ServeSome() {
    const auto client = Attach();
    EXPECT_NE(client, nullptr);
    if (client == nullptr) return "";
    testing::internal::CaptureStderr();
    for (int attempt = 0; attempt < 3; ++attempt) {
      WeightLease lease = Acquire(*client, 1, kHid, Wanted(16, 24));
      for (size_t i = 0; i < 8; ++i) {
        const absl::Status status = lease.Wait(i).status();
        EXPECT_EQ(status.code(), i < 4 ? absl::StatusCode::kOk : absl::StatusCode::kDataLoss)
            << i << ": " << status;
        if (i >= 4) {
          EXPECT_THAT(std::string(status.message()),
                      HasSubstr("cannot read layer 1, hidden units, block 2"));
        }
      }
    }
    EXPECT_TRUE(client->connected());
    return testing::internal::GetCapturedStderr();
  }
  void ExpectOneLine(const std::string& log) const {
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
    EXPECT_THAT(log, HasSubstr("error: cannot read layer 1, hidden units, block 2"));
    EXPECT_GE(stats().flash_reads_failed, 3u * 4);
    EXPECT_TRUE(Becomes(stats().pinned_bytes, 0));
  }
};
INSTANTIATE_TEST_SUITE_P(Policies, UnreadableTest, testing::Values("value", "none"));

TEST_P(UnreadableTest, APackThatIsCutOffUnderARunningStore) {
  options_.policy = GetParam();
  StartStore();
  ASSERT_EQ(::truncate(pack_.path.c_str(), static_cast<off_t>(End() + 100)), 0);
  const std::string log = ServeSome();
  ExpectOneLine(log);
  EXPECT_THAT(log, HasSubstr("the pack has been cut off"));
}

TEST_P(UnreadableTest, ADriveThatAnswersWithErrors) {
  options_.policy = GetParam();
  options_.flash_model = FlashModel{.bad_from = End()};
  StartStore();
  const std::string log = ServeSome();
  ExpectOneLine(log);
  EXPECT_THAT(log, HasSubstr("Input/output error"));
}

class DamagedStaticsTest : public StoreFixture {};

TEST_F(DamagedStaticsTest, StaticWeightsThatCannotBeReadAreNoStore) {
  options_.flash_model = FlashModel{.bad_from = pack_.index.header.static_offset};
  const auto store = Store::Create(options_);
  EXPECT_EQ(store.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("static weights"));
}

TEST_F(DamagedStaticsTest, DamagedStaticWeightsAreNoStore) {
  const auto& tensor = pack_.index.manifest.static_tensors(0);
  const uint64_t offset = pack_.index.header.static_offset + tensor.offset();
  const char flipped = static_cast<char>(pack_.FileBytes(offset, 1)[0] ^ 1);
  {
    const auto fd = UniqueFd::Open(pack_.path, O_WRONLY);
    ASSERT_TRUE(WriteAt(fd->get(), offset, &flipped, 1).ok());
  }
  const auto store = Store::Create(options_);
  EXPECT_EQ(store.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr(tensor.name()));
  EXPECT_FALSE(FileExists(options_.region_path)) << "a store that failed leaves no memory behind";
  EXPECT_FALSE(FileExists(options_.socket_path));
}

}  // namespace tidegate::damaged_weights_test
