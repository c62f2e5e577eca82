#include "engine/request_check.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/request_limits.h"

namespace tidegate {
namespace {

absl::Status OutOfBounds(const char* field, double value, RealRange range) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, " ", value, " is outside ", IntervalText(range)));
}

absl::Status CheckPruning(const PruningParams& p, const PruningBounds& bounds) {
  if (p.mode == DecodeMode::kDense) return absl::OkStatus();
  const RealRange density = {bounds.density_min, bounds.density_max};
  if (!IsIn(density, p.density)) return OutOfBounds("density", p.density, density);
  const RealRange gamma = {bounds.gamma_min, bounds.gamma_max};
  if (p.mode == DecodeMode::kDipCa && !IsIn(gamma, p.gamma)) {
    return OutOfBounds("gamma", p.gamma, gamma);
  }
  if (!IsIn(kProtectedShareRange, p.protected_share)) {
    return OutOfBounds("protected share", p.protected_share, kProtectedShareRange);
  }
  return absl::OkStatus();
}

absl::Status CheckStops(const StopParams& stop, uint32_t max_tokens, const Tokenizer& tokenizer) {
  if (stop.min_tokens > max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("min_tokens ", stop.min_tokens, " is more than max_tokens, ", max_tokens));
  }
  if (stop.strings.size() > kMaxStopStrings) {
    return absl::InvalidArgumentError(
        absl::StrCat(stop.strings.size(), " stop strings, at most ", kMaxStopStrings));
  }
  for (const std::string& text : stop.strings) {
    if (text.empty() || text.size() > kMaxStopStringBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("a stop string has ", text.size(), " bytes, 1 to ", kMaxStopStringBytes));
    }
  }
  if (stop.token_ids.size() > kMaxStopTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat(stop.token_ids.size(), " stop token ids, at most ", kMaxStopTokens));
  }
  for (const TokenId id : stop.token_ids) {
    if (!tokenizer.IsValid(id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("stop token id ", id, " is not in the vocabulary"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckAdmission(int32_t priority, size_t salt_bytes) {
  if (priority < -kMaxPriority || priority > kMaxPriority) {
    return absl::InvalidArgumentError(absl::StrCat("priority ", priority, " is outside [",
                                                   -kMaxPriority, ", ", kMaxPriority, "]"));
  }
  if (salt_bytes > kMaxCacheSaltBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("cache_salt has ", salt_bytes, " bytes, at most ", kMaxCacheSaltBytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRequest(const GenerationRequest& request, const PruningBounds& bounds,
                          const Tokenizer& tokenizer, uint32_t context_tokens) {
  if (request.prompt.empty()) return absl::InvalidArgumentError("the prompt has no tokens");
  if (request.choices < 1 || request.choices > kMaxChoices) {
    return absl::InvalidArgumentError(
        absl::StrCat("choices ", request.choices, " is outside [1, ", kMaxChoices, "]"));
  }
  if (request.max_tokens == 0) return absl::InvalidArgumentError("max_tokens must be at least 1");
  for (const TokenId id : request.prompt) {
    if (!tokenizer.IsValid(id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("prompt token id ", id, " is not in [0, ", tokenizer.vocab_size(), ")"));
    }
  }
  if (request.prompt.size() >= context_tokens) {
    return absl::OutOfRangeError(absl::StrCat("the prompt has ", request.prompt.size(),
                                              " tokens; with at least one generated token it "
                                              "exceeds the context of ",
                                              context_tokens, "; shorten it"));
  }
  RETURN_IF_ERROR(CheckPruning(request.pruning, bounds));
  if (request.top_logprobs.value_or(0) > kMaxTopLogprobs) {
    return absl::InvalidArgumentError(absl::StrCat("top_logprobs ", *request.top_logprobs,
                                                   " is outside [0, ", kMaxTopLogprobs, "]"));
  }
  if (request.prompt_logprobs.value_or(0) > kMaxTopLogprobs ||
      PromptLogprobsOf(request) > kMaxPromptLogprobs) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompt_logprobs ", *request.prompt_logprobs, " is outside [0, ",
                     kMaxTopLogprobs, "], or more than ", kMaxPromptLogprobs, " together"));
  }
  RETURN_IF_ERROR(CheckStops(request.stop, request.max_tokens, tokenizer));
  RETURN_IF_ERROR(CheckAdmission(request.priority, request.cache_salt.size()));
  return ValidateSamplingParams(request.sampling, tokenizer.vocab_size());
}

}  // namespace tidegate
