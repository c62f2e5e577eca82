// Bodies of /v1/chat/completions and /v1/completions, as OpenAI's clients send them, become the
// messages of the gRPC API, which parse_request.h checks against the server's bounds.
//
// Fields of the protocol that change an answer and that we do not have are refused by name; fields
// that are unknown, or do not change an answer, are skipped (docs/api.md). Stateless; any thread.
#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "server/openai/answer.h"
#include "tidegate/v1/generation.pb.h"

namespace tidegate {

inline constexpr int kMaxRequestJsonDepth = 64;

// Fills `request` and `options`. INVALID_ARGUMENT with BadRequest, which names fields as the body
// does; what it has taken by then stays.
absl::Status ParseChatJson(std::string_view body, v1::ChatRequest& request, AnswerOptions& options);
absl::Status ParseCompletionJson(std::string_view body, v1::GenerateRequest& request,
                                 AnswerOptions& options);

}  // namespace tidegate
