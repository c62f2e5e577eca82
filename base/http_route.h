// Which handler answers a request: method and path, matched exactly.
//
// Not here: patterns in paths, parsing of targets (http_message.h). Stateless.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/http_message.h"
#include "base/http_reply.h"

namespace tidegate {

// Called on the server's handler thread; must not throw.
using HttpHandler = std::function<void(const HttpRequest&, HttpReply)>;

struct HttpRoute {
  std::string method;  // a "GET" answers HEAD too: the same headers, no body
  std::string path;    // percent-decoded, as HttpRequest::path
  HttpHandler handler;
};

// The route for a request, or null with the answer in `refusal`: 404, or 405 with Allow.
const HttpRoute* FindHttpRoute(const std::vector<HttpRoute>& routes, std::string_view method,
                               std::string_view path, HttpResponse& refusal);

}  // namespace tidegate
