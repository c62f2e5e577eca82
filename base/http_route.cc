#include "base/http_route.h"

#include "absl/strings/str_cat.h"

namespace tidegate {
namespace {

bool Matches(std::string_view pattern, std::string_view path) {
  if (!pattern.ends_with("/*")) return pattern == path;
  pattern.remove_suffix(1);
  return path.starts_with(pattern) && path != pattern;
}

}  // namespace

const HttpRoute* FindHttpRoute(const std::vector<HttpRoute>& routes, std::string_view method,
                               std::string_view path, HttpResponse& refusal) {
  std::string allowed;
  for (const HttpRoute& route : routes) {
    if (!Matches(route.path, path)) continue;
    if (route.method == method || (route.method == "GET" && method == "HEAD")) return &route;
    absl::StrAppend(&allowed, allowed.empty() ? "" : ", ", route.method,
                    route.method == "GET" ? ", HEAD" : "");
  }
  if (allowed.empty()) {
    refusal = {404, "text/plain; charset=utf-8", "not found\n"};
  } else {
    refusal = {405,
               "text/plain; charset=utf-8",
               absl::StrCat("this path takes ", allowed, "\n"),
               {{"Allow", allowed}}};
  }
  return nullptr;
}

}  // namespace tidegate
