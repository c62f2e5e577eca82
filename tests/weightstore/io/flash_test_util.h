// A file whose content is a function of the offset, page-aligned target memory, and a loop that
// drives a FlashDevice until every read is back.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>

#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "tests/support/test_support.h"
#include "weightstore/io/flash_device.h"

namespace tidegate {

inline constexpr uint32_t kPageBytes = 4096;

// The 8 bytes at file offset 8 * index (splitmix64).
inline uint64_t ContentWord(uint64_t index) {
  uint64_t z = (index + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

inline std::string MakeContent(uint64_t bytes) {
  std::string content((bytes + 7) / 8 * 8, '\0');
  for (uint64_t i = 0; i < content.size() / 8; ++i) {
    const uint64_t word = ContentWord(i);
    std::memcpy(&content[i * 8], &word, 8);
  }
  content.resize(bytes);
  return content;
}

// REQUIRES: offset and size are multiples of 8.
inline bool ContentMatches(std::span<const std::byte> data, uint64_t offset) {
  for (uint64_t i = 0; i < data.size() / 8; ++i) {
    const uint64_t word = ContentWord(offset / 8 + i);
    if (std::memcmp(&data[i * 8], &word, 8) != 0) return false;
  }
  return true;
}

class PageBuffer {
 public:
  explicit PageBuffer(size_t bytes) : bytes_(bytes) {
    data_ = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(data_ != MAP_FAILED);
  }
  ~PageBuffer() { ::munmap(data_, bytes_); }
  PageBuffer(const PageBuffer&) = delete;
  PageBuffer& operator=(const PageBuffer&) = delete;

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  std::span<std::byte> span() const { return {data(), bytes_}; }
  std::span<std::byte> Part(size_t offset, size_t bytes) const {
    return span().subspan(offset, bytes);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

inline bool Readable(int fd, int timeout_ms) {
  pollfd wait{fd, POLLIN, 0};
  return ::poll(&wait, 1, timeout_ms) == 1;
}

// "io_uring", "pread" or "modelled" over `path`.
inline FlashOptions OptionsFor(const std::string& backend, const std::string& path) {
  FlashOptions options;
  options.path = path;
  options.queue_depth = 16;
  options.pread_threads = 4;
  if (backend == "modelled") {
    options.model = FlashModel{.bytes_per_second = 10e9,
                               .latency = std::chrono::microseconds(20),
                               .reads_per_second = 1e6};
  } else {
    options.backend = backend;
  }
  return options;
}

// Waits for one round of completions; fails the test when none comes in a long time.
inline void ReapSome(FlashDevice& device, std::vector<FlashCompletion>& completions) {
  ASSERT_TRUE(Readable(device.event_fd(), 60'000)) << "no completion in a minute";
  device.Reap(completions);
}

// A read with memory of its own for its segments.
struct OwnedRead {
  uint64_t offset = 0;
  std::vector<FlashSegment> segments;
};

// Issues all reads, as many at once as the device takes; result i belongs to read i.
inline std::vector<FlashCompletion> ReadAll(FlashDevice& device,
                                            const std::vector<OwnedRead>& reads) {
  std::vector<FlashCompletion> results(reads.size());
  std::vector<int> seen(reads.size());
  std::vector<FlashCompletion> round;
  size_t next = 0;
  size_t done = 0;
  while (done < reads.size() && !::testing::Test::HasFatalFailure()) {
    for (; next < reads.size() && device.free_count() > 0; ++next) {
      device.Enqueue({reads[next].offset, reads[next].segments, next});
    }
    EXPECT_TRUE(device.Submit().ok());
    round.clear();
    ReapSome(device, round);
    for (FlashCompletion& completion : round) {
      EXPECT_EQ(++seen.at(completion.tag), 1) << "completed twice";
      results[completion.tag] = std::move(completion);
    }
    done += round.size();
  }
  EXPECT_EQ(device.in_flight(), 0u);
  return results;
}

}  // namespace tidegate

// Opens `options` into `device`, or skips the test where the kernel refuses io_uring.
#define TG_OPEN_OR_SKIP(device, options)                    \
  auto device##_or = ::tidegate::OpenFlashDevice(options);  \
  if (::absl::IsFailedPrecondition(device##_or.status())) { \
    GTEST_SKIP() << device##_or.status();                   \
  }                                                         \
  ASSERT_TRUE(device##_or.ok()) << device##_or.status();    \
  std::unique_ptr<::tidegate::FlashDevice> device = std::move(device##_or).value()
