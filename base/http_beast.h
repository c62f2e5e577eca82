// What Beast's parser has read, in terms of ours: requests, and what is wrong with them. Boost is
// visible here, so this is for http_server.cc alone. Stateless.
#pragma once

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/http_message.h"
#include "boost/beast/http/parser.hpp"
#include "boost/beast/http/string_body.hpp"

namespace tidegate {

using HttpParser = boost::beast::http::request_parser<boost::beast::http::string_body>;

inline std::string StdString(boost::beast::string_view text) { return {text.data(), text.size()}; }

// What to answer to a request that the parser refused.
inline HttpResponse RefusalOf(const boost::system::error_code& error) {
  namespace http = boost::beast::http;
  if (error == http::error::header_limit) return HttpTextResponse(431, "request head too large");
  if (error == http::error::body_limit) return HttpTextResponse(413, "request body too large");
  if (error == http::error::bad_version) return HttpTextResponse(505, "only HTTP/1.0 and HTTP/1.1");
  return HttpTextResponse(400, absl::StrCat("malformed request: ", error.message()));
}

// The same for a head that is well-formed; nullopt if there is nothing wrong.
inline std::optional<HttpResponse> RefusalOfHead(const HttpParser& parser) {
  using boost::beast::http::field;
  const auto& head = parser.get();
  if (head.version() >= 11 && head.count(field::host) != 1) {
    return HttpTextResponse(400, "one Host header is required");
  }
  if (head.count(field::transfer_encoding) != 0 && !parser.chunked()) {
    return HttpTextResponse(501, "the only transfer encoding is chunked");
  }
  const std::string expected = StdString(head[field::expect]);
  if (!expected.empty() && !absl::EqualsIgnoreCase(expected, "100-continue")) {
    return HttpTextResponse(417, "the only expectation is 100-continue");
  }
  return std::nullopt;
}

// REQUIRES: the parser is done. Path, query and peer are the caller's to add.
inline HttpRequest TakeRequest(HttpParser& parser) {
  HttpRequest request;
  request.method = StdString(parser.get().method_string());
  for (const auto& field : parser.get()) {
    request.headers.emplace_back(StdString(field.name_string()), StdString(field.value()));
  }
  request.body = std::move(parser.get().body());
  return request;
}

}  // namespace tidegate
