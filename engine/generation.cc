#include "engine/generation.h"

#include "absl/strings/str_cat.h"

namespace tidegate {

std::string_view DecodeModeName(DecodeMode mode) {
  switch (mode) {
    case DecodeMode::kDense:
      return "dense";
    case DecodeMode::kDip:
      return "dip";
    case DecodeMode::kDipCa:
      return "dip_ca";
  }
  return "?";
}

absl::StatusOr<DecodeMode> ParseDecodeMode(std::string_view name) {
  for (const DecodeMode mode : {DecodeMode::kDense, DecodeMode::kDip, DecodeMode::kDipCa}) {
    if (DecodeModeName(mode) == name) return mode;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown mode '", std::string(name), "'; use dense, dip or dip_ca"));
}

std::string_view FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndOfText:
      return "end_of_text";
    case FinishReason::kStopString:
      return "stop_string";
    case FinishReason::kStopToken:
      return "stop_token";
    case FinishReason::kMaxTokens:
      return "max_tokens";
    case FinishReason::kContextLimit:
      return "context_limit";
    case FinishReason::kTimeLimit:
      return "time_limit";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDraining:
      return "draining";
    case FinishReason::kError:
      return "error";
  }
  return "?";
}

}  // namespace tidegate
