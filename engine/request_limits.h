// Bounds of a request's fields, as proto/tidegate/v1/generation.proto states them: defined here
// once for the server's check of messages (parse_options.h), the engine's of requests
// (request_check.h, sampler.h) and the flags of commands. Plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/numbers.h"

namespace tidegate {

inline constexpr RealRange kTemperatureRange = {0, 100};
inline constexpr RealRange kTopPRange = {0, 1, true};
inline constexpr RealRange kMinPRange = {0, 1};
inline constexpr RealRange kRepetitionPenaltyRange = {0, 10, true};
inline constexpr RealRange kPenaltyRange = {-10, 10};  // presence and frequency
inline constexpr RealRange kProtectedShareRange = {0, 1};
inline constexpr uint32_t kMaxPenaltyWindow = 65536;  // tokens
inline constexpr uint32_t kMaxFixedTopN = 1048576;    // units
inline constexpr size_t kMaxLogitBias = 1024;         // entries

inline constexpr size_t kMaxStopStrings = 16;
inline constexpr size_t kMaxStopStringBytes = 256;  // of each; at least 1
inline constexpr size_t kMaxStopTokens = 64;

inline constexpr uint32_t kMaxTopLogprobs = 20;
// Of log-probabilities of a prompt, those of the most likely tokens included: they wait in memory
// for a client that does not read.
inline constexpr uint64_t kMaxPromptLogprobs = 65536;
inline constexpr uint32_t kMaxChoices = 128;        // of one request, whatever a server allows
inline constexpr uint32_t kDefaultMaxChoices = 16;  // what a server allows (--max-choices)
inline constexpr int32_t kMaxPriority = 1000;       // and -1000 at least
inline constexpr size_t kMaxCacheSaltBytes = 128;

// False for what is not a number.
constexpr bool IsIn(RealRange range, double value) {
  return (range.above_low ? value > range.low : value >= range.low) && value <= range.high;
}

// "(0, 1]"
inline std::string IntervalText(RealRange range) {
  return absl::StrCat(range.above_low ? "(" : "[", range.low, ", ", range.high, "]");
}

}  // namespace tidegate
