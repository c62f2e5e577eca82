#include "weightstore/region.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "tests/support/tiny_pack.h"

namespace tidegate::region_test {

using ::testing::HasSubstr;

class RegionTest : public testing::Test {
 protected:
  RegionTest() : path_(shm_.File("region")) {
    PackGeometry geometry;
    geometry.layer_count = 2;
    geometry.kinds[0] = {.unit_count = 8,
                         .unit_bytes = 8192,
                         .units_per_block = 1,
                         .block_bytes = 8192,
                         .block_count = 8};
    geometry.kinds[1] = {.unit_count = 32,
                         .unit_bytes = 1024,
                         .units_per_block = 4,
                         .block_bytes = 4096,
                         .block_count = 8};
    header_ = MakeRegionHeader(geometry, {1, 2, 3},
                               {.manifest_bytes = 100,
                                .static_bytes = 5000,
                                .staging_bytes = 8192,
                                .slots_per_layer = {3, 5}});
  }

  ShmDir shm_;
  std::string path_;
  RegionHeader header_;
};

TEST_F(RegionTest, ANewRegionIsPrivateZeroedAndWithoutMagicUntilPublished) {
  auto region = Region::Open(path_, header_);
  ASSERT_TRUE(region.ok()) << region.status();
  EXPECT_FALSE(region->adopted());
  struct stat info;
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  EXPECT_EQ(static_cast<uint64_t>(info.st_size), header_.region_bytes);
  EXPECT_GE(static_cast<uint64_t>(info.st_blocks) * 512, header_.region_bytes);  // Reserved.

  RegionHeader seen;
  std::memcpy(&seen, region->data(), sizeof(seen));
  EXPECT_EQ(seen.magic, 0u);
  EXPECT_FALSE(ValidateRegionHeader(seen, header_.region_bytes).ok());
  region->Publish();
  std::memcpy(&seen, region->data(), sizeof(seen));
  EXPECT_TRUE(ValidateRegionHeader(seen, header_.region_bytes).ok());
  EXPECT_EQ(std::memcmp(&seen, &header_, sizeof(seen)), 0);
  for (const ResidencyEntry& entry : region->residency(1, UnitKind::kHidden)) EXPECT_EQ(entry, 0u);
}

TEST_F(RegionTest, PartsLieWhereTheHeaderSays) {
  auto region = Region::Open(path_, header_);
  ASSERT_TRUE(region.ok());
  EXPECT_EQ(region->bytes().size(), header_.region_bytes);
  EXPECT_EQ(region->residency(1, UnitKind::kInput).size(), 8u);
  EXPECT_EQ(region->slot(0, UnitKind::kInput, 2) - region->data(),
            static_cast<ptrdiff_t>(header_.slots_offset + 2 * 8192));
  EXPECT_EQ(region->slot(1, UnitKind::kHidden, 4) + 4096 - region->data(),
            static_cast<ptrdiff_t>(header_.staging_offset));
}

// Bytes of the mapping at `address` that lie in huge pages, as the kernel says.
uint64_t HugeBytesAt(const void* address) {
  std::ifstream maps("/proc/self/smaps");
  const std::string begin = absl::StrCat(absl::Hex(reinterpret_cast<uintptr_t>(address)), "-");
  bool ours = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.find("-") < line.find(":")) ours = line.compare(0, begin.size(), begin) == 0;
    uint64_t kib = 0;
    if (ours && std::sscanf(line.c_str(), "ShmemPmdMapped: %lu kB", &kib) == 1) return kib * 1024;
  }
  return 0;
}

RegionHeader LargeHeader(const RegionHeader& header) {
  RegionHeader large = header;
  large.staging_bytes = 1 << 20;  // for each lease of each session
  large.region_bytes =
      large.staging_offset + large.staging_bytes * kMaxSessions * kLeasesPerSession;
  return large;
}

TEST_F(RegionTest, HugePagesLieBehindALargeRegionWhereTheKernelGivesThem) {
  const RegionHeader large = LargeHeader(header_);
  auto region = Region::Open(path_, large);
  ASSERT_TRUE(region.ok()) << region.status();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(region->data()) % kHugePageBytes, 0u);
  EXPECT_LE(region->huge_bytes(), large.region_bytes);
  EXPECT_EQ(region->huge_bytes() % kHugePageBytes, 0u);
  EXPECT_EQ(HugeBytesAt(region->data()), region->huge_bytes());
  struct stat info;
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_GE(static_cast<uint64_t>(info.st_blocks) * 512, large.region_bytes);
  for (const std::byte b : region->bytes().subspan(sizeof(RegionHeader))) {
    ASSERT_EQ(b, std::byte{0});
  }
}

TEST_F(RegionTest, WithoutHugePagesARegionIsMadeOfOrdinaryOnes) {
  ASSERT_EQ(::prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
  const RegionHeader large = LargeHeader(header_);
  auto region = Region::Open(path_, large);
  ::prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
  ASSERT_TRUE(region.ok()) << region.status();
  EXPECT_EQ(region->huge_bytes(), 0u);
  struct stat info;
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_GE(static_cast<uint64_t>(info.st_blocks) * 512, large.region_bytes);
  std::memset(region->slot(1, UnitKind::kInput, 1), 0x5a, 8192);
}

TEST_F(RegionTest, ASecondOwnerIsRefused) {
  auto first = Region::Open(path_, header_);
  ASSERT_TRUE(first.ok());
  const auto second = Region::Open(path_, header_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(path_));
}

TEST_F(RegionTest, WhatIsNotOnTmpfsIsRefused) {
  TempDir folder;
  struct stat here, shm;
  ASSERT_EQ(::stat(folder.path().c_str(), &here), 0);
  ASSERT_EQ(::stat("/dev/shm", &shm), 0);
  if (here.st_dev == shm.st_dev) GTEST_SKIP() << "the temporary folder is on the same tmpfs";
  const auto region = Region::Open(folder.File("region"), header_);
  EXPECT_EQ(region.status().code(), absl::StatusCode::kFailedPrecondition) << region.status();
  EXPECT_THAT(std::string(region.status().message()), HasSubstr("not on tmpfs"));
}

TEST_F(RegionTest, FilesThatOthersMayOpenAreRefused) {
  WriteFileOrDie(path_, "x");
  ASSERT_EQ(::chmod(path_.c_str(), 0640), 0);
  const auto region = Region::Open(path_, header_);
  EXPECT_EQ(region.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(region.status().message()), HasSubstr("not a private file"));
  EXPECT_EQ(ReadFileOrDie(path_), "x");
}

TEST_F(RegionTest, FilesOfAnotherUserAreRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can make another user's file";
  WriteFileOrDie(path_, "x");
  ASSERT_EQ(::chmod(path_.c_str(), 0600), 0);
  ASSERT_EQ(::chown(path_.c_str(), 12345, 12345), 0);
  // Either our check or the kernel's fs.protected_regular refuses it.
  EXPECT_FALSE(Region::Open(path_, header_).ok());
  EXPECT_EQ(ReadFileOrDie(path_), "x");
}

TEST_F(RegionTest, SymbolicLinksAndFoldersAreRefused) {
  const std::string target = shm_.File("target");
  WriteFileOrDie(target, "precious");
  std::filesystem::create_symlink(target, path_);
  EXPECT_FALSE(Region::Open(path_, header_).ok());
  EXPECT_EQ(ReadFileOrDie(target), "precious");
  const std::string folder = shm_.File("folder");
  std::filesystem::create_directory(folder);
  EXPECT_FALSE(Region::Open(folder, header_).ok());
}

// What a store that died leaves behind.
void LeaveBehind(const std::string& path, const RegionHeader& header, bool publish) {
  auto region = Region::Open(path, header);
  ASSERT_TRUE(region.ok()) << region.status();
  std::memset(region->slot(1, UnitKind::kInput, 1), 0x5a, 8192);
  region->residency(1, UnitKind::kInput)[7] = 2;
  if (publish) region->Publish();
}

TEST_F(RegionTest, TheContentOfADeadOwnerIsTakenOver) {
  LeaveBehind(path_, header_, true);
  auto region = Region::Open(path_, header_);
  ASSERT_TRUE(region.ok());
  EXPECT_TRUE(region->adopted());
  EXPECT_EQ(region->slot(1, UnitKind::kInput, 1)[8191], std::byte{0x5a});
  EXPECT_EQ(region->residency(1, UnitKind::kInput)[7], 2u);
}

void ExpectFresh(const std::string& path, const RegionHeader& header) {
  auto region = Region::Open(path, header);
  ASSERT_TRUE(region.ok()) << region.status();
  EXPECT_FALSE(region->adopted());
  for (const std::byte b : region->bytes().subspan(sizeof(RegionHeader))) {
    ASSERT_EQ(b, std::byte{0});
  }
}

TEST_F(RegionTest, AnotherPacksOrPlansContentIsNotTakenOver) {
  LeaveBehind(path_, header_, true);
  RegionHeader other = header_;
  other.pack_uuid[15] ^= 1;
  ExpectFresh(path_, other);
  LeaveBehind(path_, header_, true);
  other = header_;
  other.engine_reserve_bytes += 1;
  ExpectFresh(path_, other);
}

TEST_F(RegionTest, AHalfMadeOrForeignFileIsStartedAfresh) {
  LeaveBehind(path_, header_, false);
  ExpectFresh(path_, header_);
  ::unlink(path_.c_str());
  WriteFileOrDie(path_, std::string(header_.region_bytes, 'x'));
  ASSERT_EQ(::chmod(path_.c_str(), 0600), 0);
  ExpectFresh(path_, header_);
}

TEST_F(RegionTest, TheEnginesDescriptorCannotWrite) {
  auto region = Region::Open(path_, header_);
  ASSERT_TRUE(region.ok());
  const int fd = region->read_only_fd();
  EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
  EXPECT_EQ(errno, EACCES);
  void* readable = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0);
  ASSERT_NE(readable, MAP_FAILED);
  EXPECT_EQ(::mprotect(readable, 4096, PROT_READ | PROT_WRITE), -1);
  EXPECT_EQ(errno, EACCES);
  region->data()[4095] = std::byte{77};
  EXPECT_EQ(static_cast<const char*>(readable)[4095], 77);
  ::munmap(readable, 4096);
  EXPECT_EQ(::pwrite(fd, "x", 1, 0), -1);
  EXPECT_EQ(::ftruncate(fd, 0), -1);
}

TEST_F(RegionTest, UnlinkRemovesTheNameOnceAndKeepsTheMemory) {
  auto region = Region::Open(path_, header_);
  ASSERT_TRUE(region.ok());
  region->Unlink();
  EXPECT_FALSE(FileExists(path_));
  region->data()[header_.region_bytes - 1] = std::byte{1};
  auto successor = Region::Open(path_, header_);
  ASSERT_TRUE(successor.ok()) << successor.status();
  EXPECT_FALSE(successor->adopted());
  region->Unlink();  // The name belongs to the successor now.
  EXPECT_TRUE(FileExists(path_));
}

}  // namespace tidegate::region_test
