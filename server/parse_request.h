// From a GenerateRequest or ChatRequest of a client to a GenerationRequest that the engine takes:
// every field is checked against its bounds, and all that is wrong is reported together, one
// violation per field. Message size is bounded before (server.cc). Thread-safe: free functions.
#pragma once

#include <chrono>
#include <cstddef>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "server/parse_options.h"
#include "tidegate/v1/generation.pb.h"

namespace tidegate {

inline constexpr size_t kMaxPromptBytes = 1 << 20;
inline constexpr int kMaxMessages = 4096;
// What Tokenize makes of the largest text can be given back: a token for each byte, a space in
// front, start and end.
inline constexpr size_t kMaxDetokenizeIds = kMaxPromptBytes + 8;

// INVALID_ARGUMENT with BadRequest; OUT_OF_RANGE with ErrorInfo when the prompt does not fit.
// `now`: arrival, for max_duration.
absl::StatusOr<GenerationRequest> ParseGenerateRequest(const v1::GenerateRequest& request,
                                                       const RequestBounds& bounds,
                                                       std::chrono::steady_clock::time_point now);

// The same for a conversation. `make_prompt` turns the messages, which are in order by themselves,
// into ids; it is called when all else is right.
using MakePrompt = absl::FunctionRef<absl::StatusOr<std::vector<TokenId>>(const v1::ChatRequest&)>;
absl::StatusOr<GenerationRequest> ParseChatRequest(const v1::ChatRequest& request,
                                                   const RequestBounds& bounds,
                                                   std::chrono::steady_clock::time_point now,
                                                   MakePrompt make_prompt);

absl::Status CheckCancelRequest(const v1::CancelRequest& request);
absl::Status CheckTokenizeRequest(const v1::TokenizeRequest& request);
absl::Status CheckDetokenizeRequest(const v1::DetokenizeRequest& request,
                                    const Tokenizer& tokenizer);

}  // namespace tidegate
