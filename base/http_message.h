// Requests and answers of HTTP as plain values, and the parts of the protocol that are text alone.
//
// Not here: sockets and parsing of requests (http_server.h). Values are thread-compatible, the
// functions are stateless.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace tidegate {

struct HttpRequest {
  std::string method;  // as sent: "GET"
  std::string path;    // percent-decoded, begins with '/'; dots are not resolved
  std::string query;   // behind '?', not decoded
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  std::string peer;  // who has sent it: TlsStream::peer_name(), or without one PeerName()

  // The first header of that name (case does not matter), or "".
  std::string_view Header(const std::string& name) const;
};

struct HttpResponse {
  int code = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body = {};
  // Further headers. The server itself adds Date, Connection and the length or framing of the body.
  std::vector<std::pair<std::string, std::string>> headers = {};
};

// A line of text; a newline is added.
HttpResponse HttpTextResponse(int code, std::string_view text);

struct HttpTarget {
  std::string path;
  std::string query;
};

// Reads the target of a request: "/path?query", or the same behind "http://host", as proxies send
// it. INVALID_ARGUMENT for other forms, for broken escapes and for control characters.
absl::StatusOr<HttpTarget> ParseHttpTarget(const std::string& target);

// The name that the standard gives to a status code, or "Unknown".
std::string_view HttpReason(int code);

// Status line and headers of `response` with the empty line behind them, without the body.
// `connection_headers` are lines that end with CR LF. Control characters in values become spaces.
std::string FormatHttpHead(const HttpResponse& response, std::string_view connection_headers);

}  // namespace tidegate
