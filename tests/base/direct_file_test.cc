#include "base/direct_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "tests/support/test_support.h"

namespace tidegate::direct_file_test {

// On a real file system, where O_DIRECT works, and in memory, where it may not.
class DirectFileTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (::access(GetParam(), W_OK) != 0) GTEST_SKIP() << GetParam() << " cannot be written";
    path_ = std::string(GetParam()) + "/tidegate_direct_" + std::to_string(::getpid());
    auto fd = UniqueFd::Open(path_, O_RDWR | O_CREAT | O_TRUNC, 0600);
    ASSERT_TRUE(fd.ok()) << fd.status();
    fd_ = *std::move(fd);
    ::unlink(path_.c_str());
  }

  // Byte i of the file, wherever it is read or written.
  static uint8_t At(uint64_t i) { return static_cast<uint8_t>(i * 7 + i / 4096); }

  std::string path_;
  UniqueFd fd_;
};

TEST_P(DirectFileTest, ReadsWhatWasWrittenWhateverTheAlignment) {
  const DirectFile out(fd_.get(), O_WRONLY), in(fd_.get(), O_RDONLY);
  constexpr uint64_t kEnd = 3 * 4096 + 777;
  const uint64_t cuts[] = {0, 1, 700, 4096, 4097, 8191, 12288, kEnd};
  for (size_t i = 0; i + 1 < std::size(cuts); ++i) {
    const uint64_t from = cuts[i], bytes = cuts[i + 1] - from;
    AlignedBuffer buffer;  // As the file lies, relative to pages.
    ASSERT_TRUE(buffer.Reserve(bytes + kDirectAlign).ok());
    uint8_t* data = buffer.data() + from % kDirectAlign;
    for (uint64_t b = 0; b < bytes; ++b) data[b] = At(from + b);
    ASSERT_TRUE(out.Write(from, data, bytes).ok());
  }
  EXPECT_EQ(*FileSize(fd_.get()), kEnd);
  AlignedBuffer buffer;
  for (const uint64_t from : cuts) {
    for (const uint64_t to : cuts) {
      if (from >= to) continue;
      const auto read = in.Read(from, to - from, buffer);
      ASSERT_TRUE(read.ok()) << read.status();
      for (uint64_t i = from; i < to; ++i) ASSERT_EQ((*read)[i - from], At(i)) << from << " " << i;
    }
  }
}

TEST_P(DirectFileTest, MemoryNeedNotBeAligned) {
  const DirectFile file(fd_.get(), O_RDWR);
  std::vector<uint8_t> bytes(3 * 4096 + 5);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = At(i);
  ASSERT_TRUE(file.Write(3, bytes.data() + 3, bytes.size() - 3).ok());
  AlignedBuffer buffer;
  const auto read = file.Read(3, bytes.size() - 3, buffer);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(std::memcmp(*read, bytes.data() + 3, bytes.size() - 3), 0);
}

TEST_P(DirectFileTest, AFileThatEndsEarlyIsOutOfRange) {
  const DirectFile file(fd_.get(), O_RDWR);
  const std::vector<uint8_t> bytes(5000);
  ASSERT_TRUE(file.Write(0, bytes.data(), bytes.size()).ok());
  AlignedBuffer buffer;
  EXPECT_TRUE(file.Read(4000, 1000, buffer).ok());
  EXPECT_EQ(file.Read(4000, 1001, buffer).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(file.Read(1 << 20, 1, buffer).status().code(), absl::StatusCode::kOutOfRange);
}

TEST_P(DirectFileTest, ErrorsOfWritesAreToldAsElsewhere) {
  auto read_only = UniqueFd::Open("/proc/self/fd/" + std::to_string(fd_.get()), O_RDONLY);
  ASSERT_TRUE(read_only.ok());
  const std::vector<uint8_t> bytes(100);
  EXPECT_FALSE(DirectFile(read_only->get(), O_RDONLY).Write(0, bytes.data(), 100).ok());
}

INSTANTIATE_TEST_SUITE_P(Folders, DirectFileTest, ::testing::Values("/var/tmp", "/dev/shm"),
                         [](const auto& row) {
                           return std::string(row.index == 0 ? "Drive" : "Memory");
                         });

TEST(AlignedBufferTest, GrowsAndBeginsAtAPage) {
  AlignedBuffer buffer;
  EXPECT_EQ(buffer.size(), 0u);
  for (const size_t bytes : {1u, 4096u, 4097u, 5u << 20}) {
    ASSERT_TRUE(buffer.Reserve(bytes).ok());
    EXPECT_GE(buffer.size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % kDirectAlign, 0u);
    std::memset(buffer.data(), 1, bytes);
  }
  uint8_t* const data = buffer.data();
  ASSERT_TRUE(buffer.Reserve(100).ok());
  EXPECT_EQ(buffer.data(), data) << "it never shrinks";
  EXPECT_EQ(AlignedBuffer().Reserve(SIZE_MAX).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(AlignedBuffer().Reserve(SIZE_MAX / 4).code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace tidegate::direct_file_test
