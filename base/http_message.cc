#include "base/http_message.h"

#include <ctime>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace tidegate {
namespace {

bool IsControlOctet(char c) { return absl::ascii_iscntrl(static_cast<unsigned char>(c)); }

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = absl::ascii_tolower(static_cast<unsigned char>(c));
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

absl::StatusOr<std::string> PercentDecoded(std::string_view text) {
  std::string decoded;
  decoded.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      const int high = i + 2 < text.size() ? HexDigit(text[i + 1]) : -1;
      const int low = i + 2 < text.size() ? HexDigit(text[i + 2]) : -1;
      if (high < 0 || low < 0) return absl::InvalidArgumentError("broken percent escape in path");
      c = static_cast<char>(high * 16 + low);
      i += 2;
    }
    if (IsControlOctet(c)) return absl::InvalidArgumentError("control character in path");
    decoded.push_back(c);
  }
  return decoded;
}

// "Tue, 15 Nov 1994 08:12:31 GMT"; names of days and months are English whatever the locale.
std::string HttpDate(std::time_t now) {
  static constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                            "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  std::tm utc = {};
  gmtime_r(&now, &utc);
  return absl::StrCat(
      kDays[utc.tm_wday], ", ", absl::Dec(utc.tm_mday, absl::kZeroPad2), " ", kMonths[utc.tm_mon],
      " ", utc.tm_year + 1900, " ", absl::Dec(utc.tm_hour, absl::kZeroPad2), ":",
      absl::Dec(utc.tm_min, absl::kZeroPad2), ":", absl::Dec(utc.tm_sec, absl::kZeroPad2), " GMT");
}

void AppendHeader(std::string& head, std::string_view name, std::string_view value) {
  head.append(name).append(": ");
  for (const char c : value) head.push_back(IsControlOctet(c) ? ' ' : c);
  head.append("\r\n");
}

}  // namespace

std::string_view HttpRequest::Header(const std::string& name) const {
  for (const auto& [key, value] : headers) {
    if (absl::EqualsIgnoreCase(key, name)) return value;
  }
  return "";
}

HttpResponse HttpTextResponse(int code, std::string_view text) {
  return {code, "text/plain; charset=utf-8", absl::StrCat(std::string(text), "\n")};
}

absl::StatusOr<HttpTarget> ParseHttpTarget(const std::string& text) {
  std::string_view target = text;
  bool has_host = false;
  for (const std::string scheme : {"http://", "https://"}) {
    if (!absl::StartsWithIgnoreCase(text, scheme)) continue;
    target.remove_prefix(scheme.size());
    const size_t end = target.find_first_of("/?");
    if (end == 0 || target.empty()) return absl::InvalidArgumentError("target without a host");
    target = end == std::string_view::npos ? "/" : target.substr(end);
    has_host = true;
    break;
  }
  const size_t mark = target.find('?');
  HttpTarget parsed;
  if (mark != std::string_view::npos) parsed.query = std::string(target.substr(mark + 1));
  target = target.substr(0, mark);
  if (target.empty() && has_host) target = "/";
  if (target.empty() || target.front() != '/') {
    return absl::InvalidArgumentError("target that is not a path");
  }
  absl::StatusOr<std::string> path = PercentDecoded(target);
  if (!path.ok()) return path.status();
  parsed.path = *std::move(path);
  return parsed;
}

std::string_view HttpReason(int code) {
  switch (code) {
    case 200:
      return "OK";
    case 201:
      return "Created";
    case 202:
      return "Accepted";
    case 204:
      return "No Content";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 417:
      return "Expectation Failed";
    case 422:
      return "Unprocessable Content";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Unknown";
  }
}

std::string FormatHttpHead(const HttpResponse& response, std::string_view connection_headers) {
  std::string head =
      absl::StrCat("HTTP/1.1 ", response.code, " ", std::string(HttpReason(response.code)), "\r\n");
  AppendHeader(head, "Date", HttpDate(std::time(nullptr)));
  if (!response.content_type.empty()) AppendHeader(head, "Content-Type", response.content_type);
  for (const auto& [name, value] : response.headers) AppendHeader(head, name, value);
  head.append(connection_headers).append("\r\n");
  return head;
}

}  // namespace tidegate
