// Which web pages may call (CORS): the Origin header of a request against the operator's list.
// Thread-safe: it does not change.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/http_message.h"

namespace tidegate {

class HttpOrigins {
 public:
  using Headers = std::vector<std::pair<std::string, std::string>>;

  // "https://chat.example", as browsers send it; "*": any. None: no page.
  explicit HttpOrigins(std::vector<std::string> allowed) : allowed_(std::move(allowed)) {}

  // PERMISSION_DENIED, which names the origin and the flag. A request without an origin comes from
  // no page and is fine.
  absl::Status Check(std::string_view origin) const;
  // What an answer tells a browser; nothing to others and to origins that are not allowed.
  Headers AnswerHeaders(std::string_view origin) const;
  // The answer to OPTIONS, with which browsers ask before they send.
  HttpResponse Preflight(const HttpRequest& request) const;

 private:
  bool Allows(std::string_view origin) const;

  const std::vector<std::string> allowed_;
};

// INVALID_ARGUMENT unless an operator may name it: scheme://host[:port], "null" or "*".
absl::Status CheckHttpOrigin(const std::string& origin);

}  // namespace tidegate
