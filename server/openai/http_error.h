// Errors as OpenAI's clients get them: {"error":{"message","type","param","code"}} under the HTTP
// status that tells the client's library whether to try again. Stateless; any thread.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "base/http_message.h"
#include "server/status_mapping.h"

namespace tidegate {

// The JSON text alone, for an error in the middle of a stream.
std::string OpenAiErrorJson(const absl::Status& status, const ErrorContext& context);

// The whole answer. Names of fields of the gRPC API become those of OpenAI's. What was not written
// for clients is logged and told as an error of the server, as ToGrpcStatus() does.
//   INVALID_ARGUMENT, OUT_OF_RANGE, FAILED_PRECONDITION 400; UNAUTHENTICATED 401;
//   PERMISSION_DENIED 403; NOT_FOUND 404; CANCELLED 499; RESOURCE_EXHAUSTED 429 and UNAVAILABLE 503
//   with Retry-After; DEADLINE_EXCEEDED 504; others 500
HttpResponse OpenAiError(const absl::Status& status, const ErrorContext& context);

// An error that HTTP itself has found; `text` may be of several lines.
HttpResponse OpenAiHttpError(int code, const std::string& text);

}  // namespace tidegate
