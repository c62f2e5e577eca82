// Turns the outputs of one exchange into the bytes of an HTTP answer: status line, headers, and the
// body with its length, in chunks, or up to the end of the connection.
//
// Not here: sockets, time. For http_server.cc alone. Thread-compatible.
#pragma once

#include <array>
#include <cstddef>
#include <string>

#include "base/http_reply.h"

namespace tidegate {

class HttpFraming {
 public:
  // The request that is answered. `keep_alive`: the connection may serve another one.
  HttpFraming(bool is_http10, bool is_head, bool keep_alive)
      : is_http10_(is_http10), is_head_(is_head), keep_alive_(keep_alive) {}

  struct Frame {
    std::array<std::string, 3> parts;  // to be sent one behind the other
    size_t stream_bytes = 0;           // of a stream, what of Output::bytes is in it
    bool last = false;                 // the answer ends with this frame
  };
  // REQUIRES: output.begun.
  Frame Next(HttpExchange::Output output);

  // The connection has to be closed behind the answer. REQUIRES: no frame was made yet.
  void Close() { keep_alive_ = false; }
  // False after the last frame if the connection has to be closed behind it.
  bool keep_alive() const { return keep_alive_; }

 private:
  std::string Head(const HttpExchange::Output& output);

  bool is_http10_ = false;
  bool is_head_ = false;
  bool keep_alive_ = false;
  bool head_sent_ = false;
};

}  // namespace tidegate
