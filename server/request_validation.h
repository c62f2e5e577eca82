// From a GenerateRequest or ChatRequest of a peer to a GenerationRequest that the engine takes:
// every field is checked against its bounds, and all that is wrong is reported together, one
// violation per field.
//
// The bounds here are those stated in proto/tidegate/v1/generation.proto. Message size is bounded
// before (server.cc). Thread-safe: free functions.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "tidegate/v1/generation.pb.h"

namespace tidegate {

inline constexpr size_t kMaxPromptBytes = 1 << 20;
inline constexpr int kMaxMessages = 4096;
// What Tokenize makes of the largest text can be given back: a token for each byte, a space in
// front, start and end.
inline constexpr size_t kMaxDetokenizeIds = kMaxPromptBytes + 8;
inline constexpr size_t kMaxRequestIdBytes = 128;
inline constexpr int kMaxStopStrings = 16;
inline constexpr size_t kMaxStopStringBytes = 256;
inline constexpr int kMaxStopTokens = 64;
inline constexpr size_t kMaxLogitBias = 1024;
inline constexpr uint32_t kMaxPenaltyWindow = 65536;
inline constexpr uint32_t kMaxFixedTopN = 1048576;
inline constexpr int64_t kMaxDurationSeconds = 24 * 3600;

// What a request is checked against.
struct RequestBounds {
  const Tokenizer& tokenizer;
  const PruningBounds& pruning;
  uint32_t context_tokens = 0;
};

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

absl::Status CheckTokenizeRequest(const v1::TokenizeRequest& request);
absl::Status CheckDetokenizeRequest(const v1::DetokenizeRequest& request,
                                    const Tokenizer& tokenizer);

// At most kMaxRequestIdBytes printable ASCII characters without spaces.
bool IsValidRequestId(std::string_view id);

// Collects what is wrong with a request.
class Violations {
 public:
  // Beyond a limit that keeps the error inside a client's metadata limit (8 KiB), violations are
  // only counted. The description is made one printable line.
  void Add(std::string field, const std::string& description);
  bool empty() const { return count_ == 0; }
  // INVALID_ARGUMENT with BadRequest. REQUIRES: !empty().
  absl::Status ToStatus() const;

 private:
  struct Violation {
    std::string field, description;
  };
  std::vector<Violation> violations_;
  size_t count_ = 0;
};

}  // namespace tidegate
