// What a store takes over from the one before it, what it drops, and what it says of both.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <utility>

#include "tests/support/store_fixture.h"

namespace tidegate::restart_test {

using ::testing::HasSubstr;
constexpr UnitKind kHid = UnitKind::kHidden;
constexpr uint64_t kHidBytes = 4096;  // of a block of the tiny pack

class RestartTest : public StoreFixture {
 protected:
  // A store fills its cache with blocks 0..31 of (1, hidden) and goes; its region stays.
  void FillAndLeave() {
    options_.keep_region = true;
    StartStore();
    EXPECT_EQ(store_->info().warm_blocks, 0u);
    const auto client = Attach();
    ASSERT_NE(client, nullptr);
    ExpectServes(*client, 1, kHid, Wanted(0, 32));
    store_.reset();
  }
  // What the next store says while it starts.
  std::string LogOfStart() {
    testing::internal::CaptureStderr();
    StartStore();
    return testing::internal::GetCapturedStderr();
  }
  RegionHeader LeftHeader() const {
    RegionHeader header;
    const std::string bytes = ReadFileOrDie(options_.region_path);
    std::memcpy(&header, bytes.data(), sizeof(header));
    return header;
  }
  void FlipRegionByte(uint64_t offset) const {
    const auto fd = UniqueFd::Open(options_.region_path, O_RDWR);
    ASSERT_TRUE(fd.ok());
    char byte;
    ASSERT_TRUE(ReadAt(fd->get(), offset, &byte, 1).ok());
    byte ^= 1;
    ASSERT_TRUE(WriteAt(fd->get(), offset, &byte, 1).ok());
  }
  // The accounts of an acquire of blocks 0..31, whose bytes are compared.
  WeightLease::Accounts ServeAgain() const {
    const auto client = Attach();
    WeightLease lease = Acquire(*client, 1, kHid, Wanted(0, 32));
    ExpectPackBytes(lease, 1, kHid, Wanted(0, 32));
    return *lease.accounts();
  }
};

TEST_F(RestartTest, TheFirstAcquireHitsWhatTheEarlierStoreRead) {
  FillAndLeave();
  const std::string log = LogOfStart();
  EXPECT_THAT(log, HasSubstr("its static weights are good"));
  EXPECT_THAT(log, HasSubstr("taken over: 32 blocks; dropped: 0 whose checksum differs, 0 that"));
  EXPECT_EQ(store_->info().warm_blocks, 32u);
  EXPECT_EQ(stats().used_bytes, 32 * kHidBytes);
  EXPECT_EQ(ServeAgain().hit_units, 32u);
  EXPECT_EQ(stats().flash_read_bytes[0] + stats().flash_read_bytes[2], 0u);
}

TEST_F(RestartTest, ADamagedSlotIsNotTakenOver) {
  FillAndLeave();
  FlipRegionByte(SlotOffset(LeftHeader(), 1, kHid, 7) + 4000);
  options_.verify_checksums = false;  // What an earlier process left is verified in any case.
  EXPECT_THAT(LogOfStart(), HasSubstr("taken over: 31 blocks; dropped: 1 whose checksum differs"));
  EXPECT_EQ(store_->info().warm_blocks, 31u);
  const auto accounts = ServeAgain();
  EXPECT_EQ(accounts.hit_units, 31u);
  EXPECT_EQ(accounts.miss_units, 1u);
}

TEST_F(RestartTest, ADamagedStaticWeightOrManifestIsReadAgain) {
  FillAndLeave();
  FlipRegionByte(LeftHeader().static_offset + 10);
  FlipRegionByte(LeftHeader().manifest_offset + 10);
  EXPECT_THAT(LogOfStart(), HasSubstr("its static weights are read again: a checksum differs"));
  EXPECT_GT(stats().flash_read_bytes[2], 0u);
  const auto client = Attach();
  ASSERT_NE(client, nullptr);
  const auto& tensor = client->manifest().static_tensors(0);
  EXPECT_EQ(Checksum(client->StaticData(tensor), tensor.bytes()), tensor.xxh3());
  EXPECT_EQ(client->manifest().SerializeAsString(), pack_.index.manifest.SerializeAsString());
}

TEST_F(RestartTest, ResidencyThatCannotBeIsNotTakenOver) {
  FillAndLeave();
  const RegionHeader header = LeftHeader();
  const uint32_t entries[4] = {33, 0xffffffff, kInFlight | 1,
                               2};  // Out of range, ..., block 3 not in 1.
  {
    const auto fd = UniqueFd::Open(options_.region_path, O_RDWR);
    ASSERT_TRUE(WriteAt(fd->get(), ResidencyOffset(header, 1, kHid), entries, 16).ok());
  }
  EXPECT_THAT(LogOfStart(), HasSubstr("taken over: 28 blocks; dropped: 1 whose checksum differs, "
                                      "2 that were being read, 1 in places that cannot be"));
  EXPECT_EQ(store_->info().warm_blocks, 28u);
  EXPECT_EQ(ServeAgain().hit_units, 28u);
}

// What a store leaves that dies in the middle of its work: its region as it was at some moment.
TEST_F(RestartTest, AfterACrash) {
  const std::string snapshot = shm_.File("snapshot");
  StartStore();
  {
    const auto client = Attach();
    ASSERT_NE(client, nullptr);
    WeightLease held = Acquire(*client, 1, kHid, Wanted(0, 32));
    ExpectPackBytes(held, 1, kHid, Wanted(0, 32));
    std::filesystem::copy_file(options_.region_path, snapshot);
  }
  store_.reset();
  ASSERT_FALSE(FileExists(options_.region_path));
  std::filesystem::rename(snapshot, options_.region_path);
  ASSERT_EQ(::chmod(options_.region_path.c_str(), 0600), 0);
  StartStore();
  EXPECT_EQ(store_->info().warm_blocks, 32u);
  EXPECT_EQ(stats().pinned_bytes, 0u);
  EXPECT_EQ(ServeAgain().hit_units, 32u);
}

TEST_F(RestartTest, AnotherPackStartsCold) {
  FillAndLeave();
  const std::string left = UuidText(pack_.index.header.uuid);
  pack_ = MakeTinyPack(folder_.path(), 2);
  EXPECT_THAT(LogOfStart(), HasSubstr("is not taken over: of pack " + left + ", not " +
                                      UuidText(pack_.index.header.uuid)));
  EXPECT_EQ(store_->info().warm_blocks, 0u);
  EXPECT_EQ(ServeAgain().miss_units, 32u);
}

// Every number in which the plan of the region differs is named with both values.
TEST_F(RestartTest, AnotherPlanStartsColdAndSaysInWhatItDiffers) {
  FillAndLeave();
  const RegionHeader left = LeftHeader();
  options_.cache_fraction = 0.25;
  options_.engine_reserve_bytes = 4096;
  const std::string log = LogOfStart();
  EXPECT_EQ(store_->info().warm_blocks, 0u);
  EXPECT_THAT(log,
              HasSubstr(options_.region_path + " that an earlier store left is not taken over"));
  EXPECT_THAT(log, HasSubstr("slots of a layer for input blocks 32, not 16"));
  EXPECT_THAT(log, HasSubstr("slots of a layer for hidden blocks 32, not 16"));
  EXPECT_THAT(log, HasSubstr("bytes of engine reserve " +
                             std::to_string(left.engine_reserve_bytes) + ", not 4096"));
}

TEST_F(RestartTest, WhatWasNeverFinishedOrIsNoRegionSaysSo) {
  FillAndLeave();
  const std::string whole = ReadFileOrDie(options_.region_path);
  std::string unfinished = whole, foreign = whole;
  unfinished.replace(0, 8, 8, '\0');
  foreign[3] ^= 1;
  const std::pair<std::string, const char*> kFiles[] = {
      {unfinished, "its store never finished it"},
      {foreign, "it is no region"},
      {whole.substr(0, 100), "a file of 100 bytes"},
      {whole + "x", "a file of "}};
  for (const auto& [content, reason] : kFiles) {
    store_.reset();
    WriteFileOrDie(options_.region_path, content);
    ASSERT_EQ(::chmod(options_.region_path.c_str(), 0600), 0);
    EXPECT_THAT(LogOfStart(), HasSubstr(std::string("is not taken over: ") + reason));
    EXPECT_EQ(store_->info().warm_blocks, 0u);
  }
}

TEST_F(RestartTest, AFirstStartHasNothingToSayOfEarlierOnes) {
  EXPECT_THAT(LogOfStart(), testing::Not(HasSubstr("taken over")));
}

}  // namespace tidegate::restart_test
