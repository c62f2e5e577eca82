#include "server/openai/http_origins.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/text.h"
#include "server/status_mapping.h"

namespace tidegate {
namespace {

constexpr size_t kMaxOriginBytes = 256;

}  // namespace

bool HttpOrigins::Allows(std::string_view origin) const {
  return std::any_of(allowed_.begin(), allowed_.end(),
                     [&](const std::string& one) { return one == "*" || one == origin; });
}

absl::Status HttpOrigins::Check(std::string_view origin) const {
  if (origin.empty() || Allows(origin)) return absl::OkStatus();
  return WithReason(
      absl::PermissionDeniedError(absl::StrCat("web pages of ", Quoted(origin, kMaxOriginBytes),
                                               " may not call this server; its operator may allow "
                                               "them with --http-allow-origin")),
      "ORIGIN_NOT_ALLOWED");
}

HttpOrigins::Headers HttpOrigins::AnswerHeaders(std::string_view origin) const {
  if (origin.empty() || !Allows(origin)) return {};
  return {{"Access-Control-Allow-Origin", std::string(origin)},
          {"Access-Control-Expose-Headers", "X-Request-Id, Retry-After"},
          {"Vary", "Origin"}};
}

HttpResponse HttpOrigins::Preflight(const HttpRequest& request) const {
  constexpr char kMethods[] = "GET, POST, OPTIONS";
  HttpResponse response{200, "", "", AnswerHeaders(request.Header("Origin"))};
  response.headers.emplace_back("Allow", kMethods);
  if (response.headers.size() == 1) return response;
  response.headers.emplace_back("Access-Control-Allow-Methods", kMethods);
  response.headers.emplace_back("Access-Control-Max-Age", "600");
  // Clients of OpenAI send many headers of their own, all of which are harmless here.
  const std::string_view wanted = request.Header("Access-Control-Request-Headers");
  if (!wanted.empty()) {
    response.headers.emplace_back("Access-Control-Allow-Headers", std::string(wanted));
  }
  return response;
}

absl::Status CheckHttpOrigin(const std::string& origin) {
  if (origin == "*" || origin == "null") return absl::OkStatus();
  const size_t scheme = origin.find("://");
  const bool plain = std::all_of(origin.begin(), origin.end(), [](char c) {
    return absl::ascii_isgraph(static_cast<unsigned char>(c)) && !absl::ascii_isupper(c);
  });
  const bool has_host = scheme != std::string::npos && scheme > 0 && scheme + 3 < origin.size();
  if (plain && has_host && origin.find_first_of("/*", scheme + 3) == std::string::npos &&
      origin.size() <= kMaxOriginBytes) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      Quoted(origin, kMaxOriginBytes),
      " is no origin; use scheme://host or scheme://host:port in lower case, or * for any page"));
}

}  // namespace tidegate
