// What a read does with each answer that a kernel may give: short reads at every page, EINTR,
// errors, ends of files. The kernel is the test itself, so that rare answers are tested on every
// machine.
#include "weightstore/io/read_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <vector>

#include "weightstore/io/fixed_buffers.h"

namespace tidegate::read_request_test {

using ::testing::HasSubstr;

constexpr uint32_t kPage = 4096;

// Page-aligned addresses that are never read or written.
std::byte* Page(uint64_t index) { return reinterpret_cast<std::byte*>((index + 16) * kPage); }

ReadRequest MakeRequest(const std::vector<FlashSegment>& segments, uint64_t offset = 8 * kPage) {
  ReadRequest request;
  request.Reset({offset, segments, 42});
  return request;
}

TEST(ReadRequest, MergesTouchingSegments) {
  const ReadRequest request =
      MakeRequest({{Page(0), kPage}, {Page(1), 2 * kPage}, {Page(9), kPage}, {Page(10), kPage}});
  ASSERT_EQ(request.iov_count(), 2u);
  EXPECT_EQ(request.iov()[0].iov_base, Page(0));
  EXPECT_EQ(request.iov()[0].iov_len, 3u * kPage);
  EXPECT_EQ(request.iov()[1].iov_base, Page(9));
  EXPECT_EQ(request.remaining(), 5u * kPage);
}

TEST(ReadRequest, ShortReadsGoOnWhereTheyStopped) {
  ReadRequest request = MakeRequest({{Page(0), kPage}, {Page(5), 2 * kPage}});
  EXPECT_FALSE(request.Apply(512, /*direct=*/true));
  EXPECT_EQ(request.offset(), 8 * kPage + 512u);
  EXPECT_EQ(request.iov()[0].iov_base, Page(0) + 512);
  EXPECT_EQ(request.iov()[0].iov_len, kPage - 512u);
  EXPECT_FALSE(request.Apply(kPage, /*direct=*/true));  // crosses into the second segment
  ASSERT_EQ(request.iov_count(), 1u);
  EXPECT_EQ(request.iov()[0].iov_base, Page(5) + 512);
  EXPECT_TRUE(request.Apply(2 * kPage - 512, /*direct=*/true));
  EXPECT_TRUE(request.status().ok());
}

TEST(ReadRequest, InterruptionsAreRetriedButNotForEver) {
  ReadRequest request = MakeRequest({{Page(0), kPage}});
  EXPECT_FALSE(request.Apply(-EINTR, true));
  EXPECT_FALSE(request.Apply(-EAGAIN, true));
  EXPECT_TRUE(request.Apply(kPage, true));
  EXPECT_TRUE(request.status().ok());

  ReadRequest stuck = MakeRequest({{Page(0), kPage}});
  int attempts = 0;
  while (!stuck.Apply(-EAGAIN, true)) ASSERT_LT(++attempts, 100'000);
  EXPECT_TRUE(absl::IsUnavailable(stuck.status()));
}

TEST(ReadRequest, ErrorsNameOffsetAndErrno) {
  ReadRequest request = MakeRequest({{Page(0), 2 * kPage}}, 3 * kPage);
  EXPECT_FALSE(request.Apply(kPage, true));
  EXPECT_TRUE(request.Apply(-EIO, true));
  EXPECT_TRUE(absl::IsUnavailable(request.status()));
  const std::string message(request.status().message());
  EXPECT_THAT(message, HasSubstr("offset 16384"));
  EXPECT_THAT(message, HasSubstr("Input/output error"));
}

TEST(ReadRequest, EndOfFile) {
  ReadRequest empty = MakeRequest({{Page(0), kPage}});
  EXPECT_TRUE(empty.Apply(0, true));
  EXPECT_TRUE(absl::IsOutOfRange(empty.status()));

  ReadRequest unaligned = MakeRequest({{Page(0), kPage}});
  EXPECT_TRUE(unaligned.Apply(100, /*direct=*/true)) << "O_DIRECT could not go on from here";
  EXPECT_TRUE(absl::IsOutOfRange(unaligned.status()));

  ReadRequest buffered = MakeRequest({{Page(0), kPage}});
  EXPECT_FALSE(buffered.Apply(100, /*direct=*/false));
  EXPECT_TRUE(buffered.Apply(0, /*direct=*/false));
  EXPECT_THAT(std::string(buffered.status().message()), HasSubstr("no more bytes at offset 32868"));
}

TEST(ReadRequest, ResetForgetsTheLastUse) {
  ReadRequest request = MakeRequest({{Page(0), kPage}});
  EXPECT_TRUE(request.Apply(-EIO, true));
  EXPECT_FALSE(request.Complete(ReadRequest::Clock::now()).status.ok());
  const FlashSegment segment{Page(2), kPage};
  request.Reset({0, {&segment, 1}, 43});
  EXPECT_TRUE(request.Apply(kPage, true));
  const FlashCompletion completion = request.Complete(ReadRequest::Clock::now());
  EXPECT_EQ(completion.tag, 43u);
  EXPECT_TRUE(completion.status.ok());
}

TEST(FixedBuffers, FindsTheChunkOfARange) {
  constexpr uint64_t kChunk = kFixedChunkBytes;
  const std::span<std::byte> buffer(Page(0), 3 * kChunk);
  FixedBuffers buffers(buffer);
  EXPECT_EQ(buffers.Find(Page(0), kPage), -1) << "nothing is registered yet";
  buffers.set_registered_bytes(2 * kChunk + 8 * kPage);
  EXPECT_EQ(buffers.Find(Page(0), kPage), 0);
  EXPECT_EQ(buffers.Find(Page(0), kChunk), 0);
  EXPECT_EQ(buffers.Find(Page(0) + kChunk - kPage, kPage), 0);
  EXPECT_EQ(buffers.Find(Page(0) + kChunk, kPage), 1);
  EXPECT_EQ(buffers.Find(Page(0) + kChunk - kPage, 2 * kPage), -1) << "straddles two chunks";
  EXPECT_EQ(buffers.Find(Page(0) + 2 * kChunk, 8 * kPage), 2);
  EXPECT_EQ(buffers.Find(Page(0) + 2 * kChunk, 9 * kPage), -1) << "past what is registered";
  EXPECT_EQ(buffers.Find(Page(0) + 3 * kChunk, kPage), -1);
  EXPECT_EQ(buffers.Find(Page(0) - kPage, kPage), -1);
  EXPECT_EQ(buffers.Find(Page(0), ~uint64_t{0}), -1);
}

TEST(FixedBuffers, HugeBuffersStayWithinTheKernelsLimits) {
  for (uint64_t bytes = uint64_t{1} << 20; bytes <= uint64_t{8} << 40; bytes *= 2) {
    const uint64_t chunk = FixedBuffers::ChunkBytes(bytes);
    EXPECT_LE(chunk, kMaxFixedChunkBytes);
    EXPECT_LE(bytes / chunk, kMaxFixedChunks) << bytes;
  }
}

}  // namespace tidegate::read_request_test
