#include "base/http_framing.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace tidegate {

std::string HttpFraming::Head(const HttpExchange::Output& output) {
  std::string lines;
  if (!output.streaming) {
    lines = absl::StrCat("Content-Length: ", output.head.body.size(), "\r\n");
  } else if (is_http10_) {
    keep_alive_ = false;  // the end of the connection is the end of the body
  } else {
    lines = "Transfer-Encoding: chunked\r\n";
  }
  if (!keep_alive_) {
    lines += "Connection: close\r\n";
  } else if (is_http10_) {
    lines += "Connection: keep-alive\r\n";
  }
  return FormatHttpHead(output.head, lines);
}

HttpFraming::Frame HttpFraming::Next(HttpExchange::Output output) {
  Frame frame;
  frame.stream_bytes = output.bytes.size();
  if (!std::exchange(head_sent_, true)) frame.parts[0] = Head(output);
  frame.last = output.ended || is_head_;
  if (is_head_) return frame;
  if (!output.streaming) {
    frame.parts[2] = std::move(output.head.body);
    return frame;
  }
  if (!is_http10_ && !output.bytes.empty()) {
    frame.parts[1] = absl::StrCat(absl::Hex(output.bytes.size()), "\r\n");
    output.bytes += "\r\n";
  }
  if (!is_http10_ && output.ended) output.bytes += "0\r\n\r\n";
  frame.parts[2] = std::move(output.bytes);
  return frame;
}

}  // namespace tidegate
