// How to generate, from a GenerateRequest or a ChatRequest of a client: sampling, stop conditions,
// pruning, limits. Every field is checked against its bounds (engine/request_limits.h); what is
// wrong goes into Violations, one for each field. Thread-safe: free functions.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/engine.h"
#include "engine/request_limits.h"
#include "server/violations.h"
#include "tidegate/v1/generation.pb.h"

namespace tidegate {

inline constexpr size_t kMaxRequestIdBytes = 128;
inline constexpr int64_t kMaxDurationSeconds = 24 * 3600;
inline constexpr std::chrono::milliseconds kMinKeepAlive{100}, kMaxKeepAlive{3600 * 1000};

// What a request is checked against.
struct RequestBounds {
  const Tokenizer& tokenizer;
  const PruningBounds& pruning;
  uint32_t context_tokens = 0;
  int32_t max_priority = 0;                   // of what requests may ask, see ServerOptions
  uint32_t max_choices = kDefaultMaxChoices;  // the same
};

// Everything but the prompt. Fields that the request leaves out keep what `parsed` has, pruning the
// server's defaults. `now`: arrival, for max_duration.
void TakeOptions(const v1::GenerateRequest& request, const RequestBounds& bounds,
                 std::chrono::steady_clock::time_point now, GenerationRequest& parsed,
                 Violations& violations);
void TakeOptions(const v1::ChatRequest& request, const RequestBounds& bounds,
                 std::chrono::steady_clock::time_point now, GenerationRequest& parsed,
                 Violations& violations);

// Of one that was checked, or is not set: 0.
std::chrono::nanoseconds ToChrono(const google::protobuf::Duration& duration);

// At most kMaxRequestIdBytes printable ASCII characters without spaces.
bool IsValidRequestId(std::string_view id);
// What a violation says if not.
std::string NotARequestId();

// Whether the tokenizer has this id, and what a violation says if not.
bool IsToken(uint32_t id, const Tokenizer& tokenizer);
std::string NotAToken(uint32_t id, const Tokenizer& tokenizer);

}  // namespace tidegate
