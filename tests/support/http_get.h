// One plain HTTP/1.0 GET over a socket, for reading /metrics in tests.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace tidegate {

struct HttpPage {
  int code = 0;         // 200
  std::string headers;  // status line and header lines
  std::string body;
};

// GET http://127.0.0.1:`port``path`. UNAVAILABLE when nobody listens, DEADLINE_EXCEEDED after 10 s
// without data.
absl::StatusOr<HttpPage> HttpGet(uint16_t port, const std::string& path);

}  // namespace tidegate
