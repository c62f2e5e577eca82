#include "server/parse_options.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/request_limits.h"
#include "server/conversions.h"

namespace tidegate {
namespace {

void TakeFloat(const char* field, float value, RealRange range, float& target,
               Violations& violations) {
  if (IsIn(range, value)) {
    target = value;
    return;
  }
  violations.Add(field, absl::StrCat(value, " is outside ", IntervalText(range)));
}

void TakeUint(const char* field, uint32_t value, uint32_t low, uint32_t high, uint32_t& target,
              Violations& violations) {
  if (value >= low && value <= high) {
    target = value;
    return;
  }
  violations.Add(field, absl::StrCat(value, " is outside [", low, ", ", high, "]"));
}

void TakeLogitBias(const v1::SamplingParams& proto, const Tokenizer& tokenizer,
                   SamplingParams& params, Violations& violations) {
  if (static_cast<size_t>(proto.logit_bias_size()) > kMaxLogitBias) {
    violations.Add("sampling.logit_bias",
                   absl::StrCat(proto.logit_bias_size(), " entries; at most ", kMaxLogitBias));
    return;
  }
  for (const auto& [id, bias] : proto.logit_bias()) {
    const std::string field = absl::StrCat("sampling.logit_bias[", id, "]");
    if (!IsToken(id, tokenizer)) {
      violations.Add(field, NotAToken(id, tokenizer));
    } else if (std::isnan(bias) || bias == std::numeric_limits<float>::infinity()) {
      violations.Add(field, absl::StrCat(bias, " is not a finite number or -infinity"));
    } else {
      params.logit_bias.emplace_back(static_cast<TokenId>(id), bias);
    }
  }
  std::sort(params.logit_bias.begin(), params.logit_bias.end());  // maps have no order
}

void TakeSampling(const v1::SamplingParams& proto, const Tokenizer& tokenizer,
                  SamplingParams& params, Violations& violations) {
  if (proto.has_temperature()) {
    TakeFloat("sampling.temperature", proto.temperature(), kTemperatureRange, params.temperature,
              violations);
  }
  if (proto.has_top_k()) params.top_k = proto.top_k();
  if (proto.has_top_p()) {
    TakeFloat("sampling.top_p", proto.top_p(), kTopPRange, params.top_p, violations);
  }
  if (proto.has_min_p()) {
    TakeFloat("sampling.min_p", proto.min_p(), kMinPRange, params.min_p, violations);
  }
  if (proto.has_repetition_penalty()) {
    TakeFloat("sampling.repetition_penalty", proto.repetition_penalty(), kRepetitionPenaltyRange,
              params.repetition_penalty, violations);
  }
  if (proto.has_presence_penalty()) {
    TakeFloat("sampling.presence_penalty", proto.presence_penalty(), kPenaltyRange,
              params.presence_penalty, violations);
  }
  if (proto.has_frequency_penalty()) {
    TakeFloat("sampling.frequency_penalty", proto.frequency_penalty(), kPenaltyRange,
              params.frequency_penalty, violations);
  }
  if (proto.has_penalty_window()) {
    TakeUint("sampling.penalty_window", proto.penalty_window(), 0, kMaxPenaltyWindow,
             params.penalty_window, violations);
  }
  if (proto.has_seed()) params.seed = proto.seed();
  TakeLogitBias(proto, tokenizer, params, violations);
}

// At most `bytes` printable ASCII characters without spaces.
bool IsPlainName(std::string_view text, size_t bytes) {
  return text.size() <= bytes &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

std::string NotAPlainName(size_t bytes) {
  return absl::StrCat("must be at most ", bytes, " printable ASCII characters without spaces");
}

// Who goes first, and with whom keys and values are shared.
template <typename Request>
void TakeAdmission(const Request& request, int32_t max_priority, GenerationRequest& parsed,
                   Violations& violations) {
  if (request.priority() < -kMaxPriority || request.priority() > max_priority) {
    violations.Add("priority",
                   absl::StrCat(request.priority(), " is outside [", -kMaxPriority, ", ",
                                max_priority, "]; the server's --max-priority is the upper bound"));
  } else {
    parsed.priority = request.priority();
  }
  if (IsPlainName(request.cache_salt(), kMaxCacheSaltBytes)) {
    parsed.cache_salt = request.cache_salt();
  } else {
    violations.Add("cache_salt", NotAPlainName(kMaxCacheSaltBytes));
  }
}

template <typename Request>
void TakeChoices(const Request& request, uint32_t max, uint32_t& choices, Violations& violations) {
  if (!request.has_choices() || (request.choices() >= 1 && request.choices() <= max)) {
    choices = request.has_choices() ? request.choices() : 1;
    return;
  }
  violations.Add("choices", absl::StrCat(request.choices(), " is outside [1, ", max,
                                         "]; the server's --max-choices is the upper bound"));
}

void TakeStop(const v1::StopConditions& proto, uint32_t max_tokens, const Tokenizer& tokenizer,
              StopParams& params, Violations& violations) {
  if (proto.min_tokens() > max_tokens) {
    violations.Add("stop.min_tokens", absl::StrCat(proto.min_tokens(), " is outside [0, ",
                                                   max_tokens, "]; max_tokens is the upper bound"));
  } else {
    params.min_tokens = proto.min_tokens();
  }
  if (static_cast<size_t>(proto.strings_size()) > kMaxStopStrings) {
    violations.Add("stop.strings",
                   absl::StrCat(proto.strings_size(), " strings; at most ", kMaxStopStrings));
  } else {
    for (int i = 0; i < proto.strings_size(); ++i) {
      const size_t bytes = proto.strings(i).size();
      if (bytes == 0 || bytes > kMaxStopStringBytes) {
        violations.Add(absl::StrCat("stop.strings[", i, "]"),
                       absl::StrCat(bytes, " bytes; from 1 to ", kMaxStopStringBytes));
      } else {
        params.strings.push_back(proto.strings(i));
      }
    }
  }
  if (static_cast<size_t>(proto.token_ids_size()) > kMaxStopTokens) {
    violations.Add("stop.token_ids",
                   absl::StrCat(proto.token_ids_size(), " ids; at most ", kMaxStopTokens));
  } else {
    for (int i = 0; i < proto.token_ids_size(); ++i) {
      if (!IsToken(proto.token_ids(i), tokenizer)) {
        violations.Add(absl::StrCat("stop.token_ids[", i, "]"),
                       NotAToken(proto.token_ids(i), tokenizer));
      } else {
        params.token_ids.push_back(static_cast<TokenId>(proto.token_ids(i)));
      }
    }
  }
  params.ignore_eos = proto.ignore_eos();
  params.include_stop_string = proto.include_stop_string();
}

void TakePruning(const v1::Pruning& proto, const PruningBounds& bounds, PruningParams& params,
                 Violations& violations) {
  params = bounds.defaults;
  if (proto.has_mode() && proto.mode() != v1::DECODE_MODE_UNSPECIFIED) {
    const std::optional<DecodeMode> mode = FromProto(proto.mode());
    if (mode.has_value()) {
      params.mode = *mode;
    } else {
      violations.Add("pruning.mode", absl::StrCat(static_cast<int>(proto.mode()),
                                                  " is no DecodeMode; use DECODE_MODE_DENSE, "
                                                  "DECODE_MODE_DIP or DECODE_MODE_DIP_CA"));
    }
  }
  if (proto.has_density()) {
    TakeFloat("pruning.density", proto.density(), {bounds.density_min, bounds.density_max},
              params.density, violations);
  }
  if (proto.has_gamma()) {
    TakeFloat("pruning.gamma", proto.gamma(), {bounds.gamma_min, bounds.gamma_max}, params.gamma,
              violations);
  }
  if (proto.has_fixed_top_n()) {
    TakeUint("pruning.fixed_top_n", proto.fixed_top_n(), 0, kMaxFixedTopN, params.fixed_top_n,
             violations);
  }
  if (proto.has_protected_share()) {
    TakeFloat("pruning.protected_share", proto.protected_share(), kProtectedShareRange,
              params.protected_share, violations);
  }
  params.steered = !proto.has_density() && !proto.has_gamma() && !proto.has_fixed_top_n() &&
                   !proto.has_protected_share();
  if (proto.has_warm_up()) params.warm_up = proto.warm_up();
  if (proto.has_reproducible()) params.reproducible = proto.reproducible();
}

void TakeDuration(const google::protobuf::Duration& duration,
                  std::chrono::steady_clock::time_point now, GenerationRequest& request,
                  Violations& violations) {
  const bool normal = duration.nanos() >= 0 && duration.nanos() < 1000000000;
  const bool positive = duration.seconds() > 0 || (duration.seconds() == 0 && duration.nanos() > 0);
  const bool bounded = duration.seconds() < kMaxDurationSeconds ||
                       (duration.seconds() == kMaxDurationSeconds && duration.nanos() == 0);
  if (!normal || !positive || !bounded) {
    violations.Add("max_duration",
                   absl::StrCat(duration.seconds(), " s ", duration.nanos(),
                                " ns is outside (0 s, ", kMaxDurationSeconds, " s]"));
    return;
  }
  request.time_limit = now + ToChrono(duration);
}

void CheckKeepAlive(const google::protobuf::Duration& duration, Violations& violations) {
  // Far beyond what is allowed already, so that nothing overflows.
  const bool sane = duration.nanos() >= 0 && duration.nanos() < 1000000000 &&
                    duration.seconds() >= 0 && duration.seconds() <= kMaxDurationSeconds;
  if (sane && ToChrono(duration) >= kMinKeepAlive && ToChrono(duration) <= kMaxKeepAlive) return;
  violations.Add("keep_alive",
                 absl::StrCat(duration.seconds(), " s ", duration.nanos(), " ns is outside [",
                              kMinKeepAlive.count(), " ms, ", kMaxKeepAlive.count(), " ms]"));
}

template <typename Request>
void TakeAll(const Request& request, const RequestBounds& bounds,
             std::chrono::steady_clock::time_point now, GenerationRequest& parsed,
             Violations& violations) {
  if (request.has_max_tokens()) {
    TakeUint("max_tokens", request.max_tokens(), 1, std::numeric_limits<uint32_t>::max(),
             parsed.max_tokens, violations);
  }
  TakeSampling(request.sampling(), bounds.tokenizer, parsed.sampling, violations);
  TakeStop(request.stop(), parsed.max_tokens, bounds.tokenizer, parsed.stop, violations);
  TakePruning(request.pruning(), bounds.pruning, parsed.pruning, violations);
  if (request.has_max_duration()) {
    TakeDuration(request.max_duration(), now, parsed, violations);
  }
  TakeAdmission(request, bounds.max_priority, parsed, violations);
  parsed.progress = request.progress();
  TakeChoices(request, bounds.max_choices, parsed.choices, violations);
  if (request.has_top_logprobs()) {
    TakeUint("top_logprobs", request.top_logprobs(), 0, kMaxTopLogprobs,
             parsed.top_logprobs.emplace(), violations);
  }
  if (request.has_keep_alive()) CheckKeepAlive(request.keep_alive(), violations);
  if (request.has_prompt_logprobs()) {
    TakeUint("prompt_logprobs", request.prompt_logprobs(), 0, kMaxTopLogprobs,
             parsed.prompt_logprobs.emplace(), violations);
  }
  if (!IsValidRequestId(request.request_id())) violations.Add("request_id", NotARequestId());
}

}  // namespace

void TakeOptions(const v1::GenerateRequest& request, const RequestBounds& bounds,
                 std::chrono::steady_clock::time_point now, GenerationRequest& parsed,
                 Violations& violations) {
  TakeAll(request, bounds, now, parsed, violations);
}

void TakeOptions(const v1::ChatRequest& request, const RequestBounds& bounds,
                 std::chrono::steady_clock::time_point now, GenerationRequest& parsed,
                 Violations& violations) {
  TakeAll(request, bounds, now, parsed, violations);
}

std::chrono::nanoseconds ToChrono(const google::protobuf::Duration& duration) {
  return std::chrono::seconds(duration.seconds()) + std::chrono::nanoseconds(duration.nanos());
}

bool IsValidRequestId(std::string_view id) { return IsPlainName(id, kMaxRequestIdBytes); }

std::string NotARequestId() { return NotAPlainName(kMaxRequestIdBytes); }

bool IsToken(uint32_t id, const Tokenizer& tokenizer) { return id < tokenizer.vocab_size(); }

std::string NotAToken(uint32_t id, const Tokenizer& tokenizer) {
  return absl::StrCat("token id ", id, " is outside [0, ", tokenizer.vocab_size(), ")");
}

}  // namespace tidegate
