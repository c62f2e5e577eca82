#include "server/openai/http_error.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/json_text.h"
#include "base/text.h"
#include "google/rpc/error_details.pb.h"

namespace tidegate {
namespace {

constexpr char kJson[] = "application/json";
constexpr size_t kMaxErrorBytes = 4000;

int HttpCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

const char* ErrorType(int code) {
  switch (code) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 429:
      return "rate_limit_error";
    default:
      return code < 500 ? "invalid_request_error" : "server_error";
  }
}

// "sampling.temperature" of the gRPC API is "temperature" here.
std::string OpenAiField(const std::string& field) {
  static constexpr std::pair<const char*, const char*> kNames[] = {
      {"choices", "n"},
      {"sampling.", ""},
      {"stop.strings", "stop"},
      {"stop.token_ids", "stop_token_ids"},
      {"stop.", ""},
      {"token_ids.ids", "prompt"},
      {"token_ids", "prompt"},
      {"text", "prompt"}};
  for (const auto& [ours, theirs] : kNames) {
    if (absl::StartsWith(field, ours)) {
      return absl::StrCat(theirs, field.substr(std::string_view(ours).size()));
    }
  }
  return field;
}

struct ErrorParts {
  std::string message, param, code;
};

void TakeViolations(const google::rpc::BadRequest& bad, ErrorParts& parts) {
  std::string joined;
  for (const auto& violation : bad.field_violations()) {
    const std::string field = OpenAiField(violation.field());
    if (parts.param.empty()) parts.param = field;
    absl::StrAppend(&joined, joined.empty() ? "" : "; ", field, ": ", violation.description());
  }
  if (!joined.empty()) parts.message = std::move(joined);
}

ErrorParts PartsOf(const absl::Status& status) {
  ErrorParts parts;
  parts.message = std::string(status.message());
  google::rpc::BadRequest bad;
  google::rpc::ErrorInfo info;
  if (FindDetail(status, bad)) TakeViolations(bad, parts);
  if (FindDetail(status, info)) parts.code = absl::AsciiStrToLower(info.reason());
  if (status.code() == absl::StatusCode::kNotFound) {
    parts.param = "model";
    parts.code = "model_not_found";
  }
  return parts;
}

std::string NullableJson(const std::string& text) { return text.empty() ? "null" : JsonText(text); }

std::string ErrorJson(const ErrorParts& parts, const char* type) {
  return absl::StrCat(
      "{\"error\":{\"message\":", JsonText(PrintableLines(parts.message, kMaxErrorBytes)),
      ",\"type\":\"", type, "\",\"param\":", NullableJson(parts.param),
      ",\"code\":", NullableJson(parts.code), "}}");
}

}  // namespace

std::string OpenAiErrorJson(const absl::Status& status, const ErrorContext& context) {
  const absl::Status told = WithImpliedDetails(status, context);
  return ErrorJson(PartsOf(told), ErrorType(HttpCode(told.code())));
}

HttpResponse OpenAiError(const absl::Status& status, const ErrorContext& context) {
  const absl::Status told = WithImpliedDetails(status, context);
  const int code = HttpCode(told.code());
  HttpResponse response{code, kJson, ErrorJson(PartsOf(told), ErrorType(code))};
  if (const auto delay = RetryDelay(told); delay.has_value()) {
    const auto seconds = std::chrono::ceil<std::chrono::seconds>(*delay).count();
    response.headers.emplace_back("Retry-After", absl::StrCat(std::max<int64_t>(seconds, 1)));
  }
  if (code == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

HttpResponse OpenAiHttpError(int code, const std::string& text) {
  const std::string message(absl::StripAsciiWhitespace(text));
  return {code, kJson, ErrorJson({.message = message, .param = "", .code = ""}, ErrorType(code))};
}

}  // namespace tidegate
