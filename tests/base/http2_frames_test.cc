#include "base/http2_frames.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/raw_http2.h"

namespace tidegate::http2_frames_test {

TEST(Http2FrameWalker, FindsFramesWhereverTheBytesAreCut) {
  const std::string bytes = std::string(kHttp2Preface) + RawFrame(4, 0, 0, "abcdef") +
                            RawFrame(0, 1, 7, std::string(300, 'x')) +
                            RawFrame(3, 0, 0x7fffffff, "1234");
  for (size_t piece = 1; piece < bytes.size(); piece += 7) {
    Http2FrameWalker walker(kHttp2Preface.size());
    std::vector<Http2Frame> frames;
    std::string waiting;
    size_t passed = 0;
    for (size_t at = 0; at < bytes.size(); at += piece) {
      waiting += bytes.substr(at, piece);
      const size_t passes = walker.Walk(waiting, [&](const Http2Frame& frame) {
        frames.push_back(frame);
        return true;
      });
      passed += passes;
      waiting.erase(0, passes);
    }
    ASSERT_EQ(frames.size(), 3u) << piece;
    EXPECT_EQ(passed, bytes.size());
    EXPECT_EQ(frames[0].type, Http2Frame::kSettings);
    EXPECT_EQ(frames[0].bytes, 6u);
    EXPECT_TRUE(frames[1].ends_stream());
    EXPECT_EQ(frames[1].stream, 7u);
    EXPECT_EQ(frames[2].stream, 0x7fffffffu);
    EXPECT_FALSE(frames[2].ends_stream());
  }
}

TEST(Http2FrameWalker, StopsInFrontOfARefusedFrameAndGoesOnFromThere) {
  const std::string first = RawFrame(6, 0, 0, "12345678"), second = RawFrame(1, 4, 1, "header");
  Http2FrameWalker walker(0);
  bool admit = false;
  const auto on_frame = [&](const Http2Frame& frame) {
    return admit || frame.type != Http2Frame::kHeaders;
  };
  EXPECT_EQ(walker.Walk(first + second, on_frame), first.size());
  EXPECT_EQ(walker.Walk(second, on_frame), 0u);
  admit = true;
  EXPECT_EQ(walker.Walk(second, on_frame), second.size());
}

}  // namespace tidegate::http2_frames_test
