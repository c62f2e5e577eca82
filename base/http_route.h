// Which handler answers a request: by method and path, or by what a path begins with.
//
// Not here: parsing of targets (http_message.h). Stateless.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/http_message.h"
#include "base/http_reply.h"

namespace tidegate {

// Called on a thread of the server's for handlers; must not throw.
using HttpHandler = std::function<void(const HttpRequest&, HttpReply)>;

struct HttpRoute {
  std::string method;  // a "GET" answers HEAD too: the same headers, no body
  // Percent-decoded, as HttpRequest::path. "/a/*" is every path that begins with "/a/" and is
  // longer.
  std::string path;
  HttpHandler handler;
};

// The route for a request, or null with the answer in `refusal`: 404, or 405 with Allow.
const HttpRoute* FindHttpRoute(const std::vector<HttpRoute>& routes, std::string_view method,
                               std::string_view path, HttpResponse& refusal);

}  // namespace tidegate
