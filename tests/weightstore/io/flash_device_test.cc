// What every backend must do alike: bytes, completions, errors, queue, event descriptor,
// destruction.
#include "weightstore/io/flash_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>
#include <tuple>

#include "tests/weightstore/io/flash_test_util.h"

namespace tidegate::flash_device_test {

using ::testing::HasSubstr;

const char* const kBackends[] = {"io_uring", "pread", "modelled"};

// ---- the bytes: backends x file sizes x read sizes ----

class FlashContent : public ::testing::TestWithParam<std::tuple<const char*, uint64_t, uint32_t>> {
};

// Cuts [target, target + bytes) into segments of whole pages and shuffles their order in memory.
std::vector<FlashSegment> Scatter(std::byte* target, uint32_t bytes, std::mt19937& random) {
  std::vector<FlashSegment> segments;
  const uint32_t pages = bytes / kPageBytes;
  const uint32_t longest = std::max(1u, (pages + 7) / 8);
  for (uint32_t page = 0; page < pages;) {
    const uint32_t length = std::min(pages - page, 1 + static_cast<uint32_t>(random() % longest));
    segments.push_back({target + uint64_t{page} * kPageBytes, length * kPageBytes});
    page += length;
    if (segments.size() == kMaxSegments - 1 && page < pages) {
      segments.push_back({target + uint64_t{page} * kPageBytes, (pages - page) * kPageBytes});
      break;
    }
  }
  std::shuffle(segments.begin(), segments.end(), random);
  return segments;
}

bool SegmentsMatch(const OwnedRead& read) {
  uint64_t offset = read.offset;
  for (const FlashSegment& segment : read.segments) {
    if (!ContentMatches({segment.data, segment.bytes}, offset)) return false;
    offset += segment.bytes;
  }
  return true;
}

// Adjacent ranges of the whole file, each to its own memory, in random order.
std::vector<OwnedRead> CoverFile(uint64_t file_bytes, uint32_t read_bytes, std::byte* target,
                                 bool scattered) {
  std::mt19937 random(read_bytes + scattered);
  std::vector<OwnedRead> reads;
  for (uint64_t offset = 0; offset + read_bytes <= file_bytes; offset += read_bytes) {
    OwnedRead read{offset, {{target + offset, read_bytes}}};
    if (scattered) read.segments = Scatter(target + offset, read_bytes, random);
    reads.push_back(std::move(read));
  }
  std::shuffle(reads.begin(), reads.end(), random);
  return reads;
}

TEST_P(FlashContent, RandomOrderReadsWhatTheFileHolds) {
  const auto [backend, file_bytes, read_bytes] = GetParam();
  TempDir dir;
  WriteFileOrDie(dir.File("pack"), MakeContent(file_bytes));
  PageBuffer buffer(file_bytes / kPageBytes * kPageBytes);
  FlashOptions options = OptionsFor(backend, dir.File("pack"));
  options.buffer = buffer.span();
  TG_OPEN_OR_SKIP(device, options);
  EXPECT_EQ(device->info().backend, backend);
  for (const bool scattered : {false, true}) {
    std::memset(buffer.data(), 0, buffer.span().size());
    const auto reads = CoverFile(file_bytes, read_bytes, buffer.data(), scattered);
    const auto results = ReadAll(*device, reads);
    for (size_t i = 0; i < reads.size(); ++i) {
      ASSERT_TRUE(results[i].status.ok()) << results[i].status;
      EXPECT_GT(results[i].latency.count(), 0);
      ASSERT_TRUE(SegmentsMatch(reads[i])) << "offset " << reads[i].offset;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, FlashContent,
    ::testing::Combine(::testing::ValuesIn(kBackends),
                       ::testing::Values(uint64_t{4096}, uint64_t{(1 << 20) + 4096},
                                         uint64_t{(6 << 20) + 1234}),
                       ::testing::Values(4096u, 16384u, 28672u, 262144u, 1048576u)),
    [](const auto& instance) {
      return std::string(std::get<0>(instance.param)) + "_" +
             std::to_string(std::get<1>(instance.param)) + "_by_" +
             std::to_string(std::get<2>(instance.param));
    });

// ---- everything else, for each backend ----

constexpr uint64_t kFileBytes = (4 << 20) + 1000;  // ends inside a page

class FlashDeviceTest : public ::testing::TestWithParam<const char*> {
 protected:
  FlashDeviceTest() : path_(dir_.File("pack")), buffer_(8 << 20) {
    WriteFileOrDie(path_, MakeContent(kFileBytes));
    options_ = OptionsFor(GetParam(), path_);
    options_.buffer = buffer_.span();
  }

  // A read of `pages` pages at page `page` of the file to page `target` of the buffer.
  OwnedRead Pages(uint64_t page, uint32_t pages, uint64_t target) const {
    return {page * kPageBytes, {{buffer_.data() + target * kPageBytes, pages * kPageBytes}}};
  }

  TempDir dir_;
  std::string path_;
  PageBuffer buffer_;
  FlashOptions options_;
};

INSTANTIATE_TEST_SUITE_P(All, FlashDeviceTest, ::testing::ValuesIn(kBackends),
                         [](const auto& instance) { return std::string(instance.param); });

TEST_P(FlashDeviceTest, QueueFillsAndEmpties) {
  options_.queue_depth = 3;  // not a power of two
  TG_OPEN_OR_SKIP(device, options_);
  EXPECT_EQ(device->info().queue_depth, 3u);
  for (int round = 0; round < 5; ++round) {
    ASSERT_EQ(device->free_count(), 3u);
    for (uint32_t i = 0; i < 3; ++i) {
      const OwnedRead read = Pages(i, 1, i);
      device->Enqueue({read.offset, read.segments, i});
      EXPECT_EQ(device->free_count(), 2 - i);
      EXPECT_EQ(device->in_flight(), i + 1);
    }
    ASSERT_TRUE(device->Submit().ok());
    std::vector<FlashCompletion> done;
    while (done.size() < 3 && !HasFatalFailure()) ReapSome(*device, done);
    EXPECT_EQ(device->in_flight(), 0u);
  }
}

TEST_P(FlashDeviceTest, NothingHappensBeforeSubmit) {
  TG_OPEN_OR_SKIP(device, options_);
  std::vector<FlashCompletion> done;
  device->Reap(done);
  EXPECT_TRUE(done.empty());
  EXPECT_TRUE(device->Submit().ok()) << "an empty batch is no error";
  const OwnedRead read = Pages(0, 1, 0);
  device->Enqueue({read.offset, read.segments, 7});
  device->Reap(done);
  EXPECT_TRUE(done.empty());
  EXPECT_FALSE(Readable(device->event_fd(), 0));
}

TEST_P(FlashDeviceTest, EventDescriptorFollowsCompletions) {
  TG_OPEN_OR_SKIP(device, options_);
  for (int round = 0; round < 20; ++round) {
    EXPECT_FALSE(Readable(device->event_fd(), 0));
    for (uint32_t i = 0; i < 8; ++i) {
      const OwnedRead read = Pages(i, 1, i);
      device->Enqueue({read.offset, read.segments, i});
    }
    ASSERT_TRUE(device->Submit().ok());
    std::vector<FlashCompletion> done;
    while (done.size() < 8 && !HasFatalFailure()) ReapSome(*device, done);
    EXPECT_FALSE(Readable(device->event_fd(), 0)) << "Reap() took everything";
  }
}

TEST_P(FlashDeviceTest, ReadsPastTheEndAreOutOfRangeAndTheRestIsRead) {
  TG_OPEN_OR_SKIP(device, options_);
  const std::vector<OwnedRead> reads = {
      Pages(1020, 4, 0),   // up to the last whole page
      Pages(1020, 8, 8),   // across the end
      Pages(1024, 1, 16),  // the page where it ends
      Pages(4096, 2, 24),  // far behind it
      Pages(3, 1, 32),
  };
  const auto results = ReadAll(*device, reads);
  EXPECT_TRUE(results[0].status.ok()) << results[0].status;
  for (const int i : {1, 2, 3}) {
    EXPECT_TRUE(absl::IsOutOfRange(results[i].status)) << i << ": " << results[i].status;
  }
  EXPECT_THAT(std::string(results[3].status.message()), HasSubstr("16777216"));
  EXPECT_TRUE(results[4].status.ok()) << results[4].status;
  EXPECT_TRUE(ContentMatches(buffer_.Part(0, 4 * kPageBytes), 1020 * kPageBytes));
  EXPECT_TRUE(ContentMatches(buffer_.Part(32 * kPageBytes, kPageBytes), 3 * kPageBytes));
}

TEST_P(FlashDeviceTest, FileThatShrinksUnderneath) {
  TG_OPEN_OR_SKIP(device, options_);
  ASSERT_EQ(::truncate(path_.c_str(), 1 << 20), 0);
  const auto results = ReadAll(*device, {Pages(0, 256, 0), Pages(256, 1, 256)});
  EXPECT_TRUE(results[0].status.ok()) << results[0].status;
  EXPECT_TRUE(absl::IsOutOfRange(results[1].status)) << results[1].status;
}

TEST_P(FlashDeviceTest, ErrorsOfTheDriveAreUnavailable) {
  options_.path = "/proc/self/mem";  // page 0 is not mapped: a read there fails for real
  TG_OPEN_OR_SKIP(device, options_);
  EXPECT_FALSE(device->info().direct);
  const auto results = ReadAll(*device, {Pages(1, 1, 0)});
  EXPECT_TRUE(absl::IsUnavailable(results[0].status)) << results[0].status;
  EXPECT_THAT(std::string(results[0].status.message()), HasSubstr("offset 4096"));
}

TEST_P(FlashDeviceTest, MostSegments) {
  TG_OPEN_OR_SKIP(device, options_);
  OwnedRead read{5 * kPageBytes, {}};
  for (uint32_t i = 0; i < kMaxSegments; ++i) {  // every other page: nothing merges
    read.segments.push_back({buffer_.data() + i * 2 * kPageBytes, kPageBytes});
  }
  const auto results = ReadAll(*device, {read});
  ASSERT_TRUE(results[0].status.ok()) << results[0].status;
  EXPECT_TRUE(SegmentsMatch(read));
}

TEST_P(FlashDeviceTest, MemoryOutsideTheRegisteredBuffer) {
  PageBuffer elsewhere(1 << 20);
  TG_OPEN_OR_SKIP(device, options_);
  const OwnedRead whole{0, {{elsewhere.data(), 1 << 19}}};
  const OwnedRead both{1 << 20,
                       {{buffer_.data(), 1 << 19}, {elsewhere.data() + (1 << 19), 1 << 19}}};
  const auto results = ReadAll(*device, {whole, both});
  ASSERT_TRUE(results[0].status.ok() && results[1].status.ok());
  EXPECT_TRUE(SegmentsMatch(whole));
  EXPECT_TRUE(SegmentsMatch(both));
}

// What a device still wrote after its destructor would be visible: the second device reads for a
// while into other memory, and the first one's targets must stay as they are.
TEST_P(FlashDeviceTest, DestructorLeavesNoReadBehind) {
  TG_OPEN_OR_SKIP(device, options_);
  for (uint32_t i = 0; i < 15; ++i) {
    const OwnedRead read = Pages(i * 64, 64, i * 64);
    device->Enqueue({read.offset, read.segments, i});
  }
  ASSERT_TRUE(device->Submit().ok());
  const OwnedRead never_submitted = Pages(0, 64, 1024);
  device->Enqueue({never_submitted.offset, never_submitted.segments, 99});
  device.reset();
  std::memset(buffer_.data(), 0xEE, buffer_.span().size());

  PageBuffer other(4 << 20);
  options_.buffer = other.span();
  TG_OPEN_OR_SKIP(second, options_);
  ReadAll(*second, CoverFile(4 << 20, 65536, other.data(), false));
  EXPECT_TRUE(std::all_of(buffer_.span().begin(), buffer_.span().end(),
                          [](std::byte b) { return b == std::byte{0xEE}; }));
}

TEST_P(FlashDeviceTest, OpenedUsedAndDestroyedByDifferentThreads) {
  TG_OPEN_OR_SKIP(device, options_);
  std::thread([&] {
    const auto results = ReadAll(*device, {Pages(2, 4, 0)});
    EXPECT_TRUE(results[0].status.ok()) << results[0].status;
    for (uint32_t i = 0; i < 8; ++i) {
      const OwnedRead read = Pages(i * 64, 64, 64 + i * 64);
      device->Enqueue({read.offset, read.segments, i});
    }
    EXPECT_TRUE(device->Submit().ok());
  }).join();
  EXPECT_TRUE(ContentMatches(buffer_.Part(0, 4 * kPageBytes), 2 * kPageBytes));
  std::vector<FlashCompletion> done;
  ReapSome(*device, done);
  EXPECT_FALSE(done.empty());
  device.reset();
}

TEST_P(FlashDeviceTest, ReadsTmpfsThroughThePageCache) {
  const std::string path = "/dev/shm/tidegate_flash_test_" + std::to_string(::getpid());
  WriteFileOrDie(path, MakeContent(kFileBytes));
  options_.path = path;
  auto opened = OpenFlashDevice(options_);
  ::unlink(path.c_str());  // the device keeps the file; nothing is left behind
  if (absl::IsFailedPrecondition(opened.status())) GTEST_SKIP() << opened.status();
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_FALSE((*opened)->info().direct);
  const auto reads = CoverFile(kFileBytes, 65536, buffer_.data(), true);
  const auto results = ReadAll(**opened, reads);
  for (size_t i = 0; i < reads.size(); ++i) {
    ASSERT_TRUE(results[i].status.ok()) << results[i].status;
    ASSERT_TRUE(SegmentsMatch(reads[i]));
  }
  EXPECT_TRUE(absl::IsOutOfRange(ReadAll(**opened, {Pages(1024, 1, 0)})[0].status));
}

}  // namespace tidegate::flash_device_test
