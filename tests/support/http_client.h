// A client of HTTP that sends exactly the bytes it is told, well-formed or not, and reads answers.
//
// Not here: anything polite (http_get.h has one plain GET). Thread-compatible. Waits of 10 s are
// failures of the test.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/listen_address.h"
#include "base/unique_fd.h"

namespace tidegate {

struct HttpAnswer {
  int code = 0;
  std::string head;  // status line and header lines
  std::string body;  // chunks put together

  // Value of a header, spelled as the server does; "" if it is not there.
  std::string Header(const std::string& name) const;
};

class HttpClient {
 public:
  // `receive_buffer`: bytes that the kernel takes for a client that does not read; 0: its default.
  static absl::StatusOr<HttpClient> Connect(const ListenAddress& server, int receive_buffer = 0);

  absl::Status Send(std::string_view bytes);
  void FinishSending();  // closes our side
  void Abort();          // closes with a reset

  // The next answer, as a peer that has sent a HEAD request or another one expects it.
  absl::StatusOr<HttpAnswer> Read(bool to_head_request = false);
  // Reads until `text` has come, and returns all up to it. OUT_OF_RANGE if the server closes first.
  absl::StatusOr<std::string> ReadUntil(const std::string& text);
  // Reads all that comes until the server closes or resets the connection.
  absl::StatusOr<std::string> ReadToEnd();

 private:
  absl::StatusOr<std::string> Take(size_t bytes);
  absl::StatusOr<std::string> ReadChunks();
  // Appends what has come to buffer_; false at the end of the connection.
  absl::StatusOr<bool> Receive();

  UniqueFd fd_;
  std::string buffer_;
};

}  // namespace tidegate
