// The frames of one direction of an HTTP/2 connection (RFC 9113, section 4.1), header by header as
// bytes come. Not a parser of HTTP/2: payloads are skipped, and what is wrong with a frame is for
// the real server or client to say. One thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tidegate {

// What a client sends first.
inline constexpr std::string_view kHttp2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

struct Http2Frame {
  static constexpr size_t kHeaderBytes = 9;
  static constexpr uint8_t kData = 0, kHeaders = 1, kRstStream = 3, kSettings = 4, kPing = 6,
                           kGoAway = 7, kWindowUpdate = 8, kContinuation = 9;
  static constexpr uint8_t kEndStream = 1, kEndHeaders = 4, kAck = 1;

  uint32_t bytes = 0;  // of the payload
  uint8_t type = 0;
  uint8_t flags = 0;
  uint32_t stream = 0;

  bool ends_stream() const {
    return (type == kData || type == kHeaders) && (flags & kEndStream) != 0;
  }
};

class Http2FrameWalker {
 public:
  // `skipped`: bytes before the first frame (a client's preface).
  explicit Http2FrameWalker(size_t skipped) : skipped_(skipped) {}

  // Calls on_frame(const Http2Frame&) -> bool for each frame whose header is complete in `bytes`,
  // in order; false: the frame may not pass yet. Returns how many of `bytes` may pass: all up to a
  // header that is incomplete or was refused. Those after them are to be given again, in front of
  // what comes next.
  template <typename OnFrame>
  size_t Walk(std::string_view bytes, OnFrame on_frame) {
    size_t at = 0;
    for (;;) {
      const size_t passed = std::min(skipped_, bytes.size() - at);
      at += passed;
      skipped_ -= passed;
      if (skipped_ > 0 || bytes.size() - at < Http2Frame::kHeaderBytes) return at;
      const Http2Frame frame = Read(bytes.substr(at));
      if (!on_frame(frame)) return at;
      skipped_ = Http2Frame::kHeaderBytes + frame.bytes;
    }
  }

 private:
  static Http2Frame Read(std::string_view header) {
    const auto byte = [&](size_t i) {
      return static_cast<uint32_t>(static_cast<unsigned char>(header[i]));
    };
    Http2Frame frame;
    frame.bytes = byte(0) << 16 | byte(1) << 8 | byte(2);
    frame.type = static_cast<uint8_t>(byte(3));
    frame.flags = static_cast<uint8_t>(byte(4));
    frame.stream = (byte(5) << 24 | byte(6) << 16 | byte(7) << 8 | byte(8)) & 0x7fffffff;
    return frame;
  }

  size_t skipped_;
};

}  // namespace tidegate
