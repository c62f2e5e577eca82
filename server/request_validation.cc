#include "server/request_validation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "google/rpc/error_details.pb.h"
#include "server/conversions.h"
#include "server/status_mapping.h"

namespace tidegate {
namespace {

constexpr size_t kMaxReportedViolations = 16;
constexpr size_t kMaxDescriptionBytes =
    1000;  // only what a chat template says is longer than a line

// Copies an optional field into `target` when it is set and inside [low, high], or (low, high] with
// `low_open`. NaN is outside.
struct FloatRange {
  float low, high;
  bool low_open = false;
};
void TakeFloat(const char* field, float value, FloatRange range, float& target,
               Violations& violations) {
  const bool above = range.low_open ? value > range.low : value >= range.low;
  if (above && value <= range.high) {
    target = value;
    return;
  }
  violations.Add(field, absl::StrCat(value, " is outside ", range.low_open ? "(" : "[", range.low,
                                     ", ", range.high, "]"));
}

void TakeUint(const char* field, uint32_t value, uint32_t low, uint32_t high, uint32_t& target,
              Violations& violations) {
  if (value >= low && value <= high) {
    target = value;
    return;
  }
  violations.Add(field, absl::StrCat(value, " is outside [", low, ", ", high, "]"));
}

bool IsToken(uint32_t id, const Tokenizer& tokenizer) { return id < tokenizer.vocab_size(); }

std::string TokenRange(uint32_t id, const Tokenizer& tokenizer) {
  return absl::StrCat("token id ", id, " is outside [0, ", tokenizer.vocab_size(), ")");
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
      violations.Add(field, TokenRange(id, tokenizer));
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
  constexpr FloatRange kUnit = {0, 1};
  constexpr FloatRange kPositiveUnit = {0, 1, true};
  constexpr FloatRange kPenalty = {-10, 10};
  if (proto.has_temperature()) {
    TakeFloat("sampling.temperature", proto.temperature(), {0, 100}, params.temperature,
              violations);
  }
  if (proto.has_top_k()) params.top_k = proto.top_k();
  if (proto.has_top_p()) {
    TakeFloat("sampling.top_p", proto.top_p(), kPositiveUnit, params.top_p, violations);
  }
  if (proto.has_min_p()) {
    TakeFloat("sampling.min_p", proto.min_p(), kUnit, params.min_p, violations);
  }
  if (proto.has_repetition_penalty()) {
    TakeFloat("sampling.repetition_penalty", proto.repetition_penalty(), {0, 10, true},
              params.repetition_penalty, violations);
  }
  if (proto.has_presence_penalty()) {
    TakeFloat("sampling.presence_penalty", proto.presence_penalty(), kPenalty,
              params.presence_penalty, violations);
  }
  if (proto.has_frequency_penalty()) {
    TakeFloat("sampling.frequency_penalty", proto.frequency_penalty(), kPenalty,
              params.frequency_penalty, violations);
  }
  if (proto.has_penalty_window()) {
    TakeUint("sampling.penalty_window", proto.penalty_window(), 0, kMaxPenaltyWindow,
             params.penalty_window, violations);
  }
  if (proto.has_seed()) params.seed = proto.seed();
  TakeLogitBias(proto, tokenizer, params, violations);
}

void TakeStop(const v1::StopConditions& proto, const Tokenizer& tokenizer, StopParams& params,
              Violations& violations) {
  if (proto.strings_size() > kMaxStopStrings) {
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
  if (proto.token_ids_size() > kMaxStopTokens) {
    violations.Add("stop.token_ids",
                   absl::StrCat(proto.token_ids_size(), " ids; at most ", kMaxStopTokens));
  } else {
    for (int i = 0; i < proto.token_ids_size(); ++i) {
      if (!IsToken(proto.token_ids(i), tokenizer)) {
        violations.Add(absl::StrCat("stop.token_ids[", i, "]"),
                       TokenRange(proto.token_ids(i), tokenizer));
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
    TakeFloat("pruning.protected_share", proto.protected_share(), {0, 1}, params.protected_share,
              violations);
  }
  params.steered = !proto.has_density() && !proto.has_gamma() && !proto.has_fixed_top_n() &&
                   !proto.has_protected_share();
  if (proto.has_warm_up()) params.warm_up = proto.warm_up();
  if (proto.has_reproducible()) params.reproducible = proto.reproducible();
}

// Checks the prompt's form and takes ids; text is split later, when all else is right.
void TakePrompt(const v1::GenerateRequest& request, const Tokenizer& tokenizer,
                std::vector<TokenId>& prompt, Violations& violations) {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::PROMPT_NOT_SET:
      violations.Add("prompt", "is missing; set text or token_ids");
      break;
    case v1::GenerateRequest::kText:
      if (request.text().empty() || request.text().size() > kMaxPromptBytes) {
        violations.Add("text",
                       absl::StrCat(request.text().size(), " bytes; from 1 to ", kMaxPromptBytes));
      }
      break;
    case v1::GenerateRequest::kTokenIds: {
      const auto& ids = request.token_ids().ids();
      if (ids.empty()) violations.Add("token_ids", "is empty; at least one id");
      const auto wrong = std::find_if(ids.begin(), ids.end(),
                                      [&](uint32_t id) { return !IsToken(id, tokenizer); });
      if (wrong != ids.end()) {
        violations.Add(absl::StrCat("token_ids.ids[", wrong - ids.begin(), "]"),
                       TokenRange(*wrong, tokenizer));
      } else {
        prompt.assign(ids.begin(), ids.end());
      }
      break;
    }
  }
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
  request.time_limit =
      now + std::chrono::seconds(duration.seconds()) + std::chrono::nanoseconds(duration.nanos());
}

// Roles go into the prompt as the template's own words ("<|" + role + "|>"), so they are a closed
// set.
void CheckMessages(const v1::ChatRequest& request, Violations& violations) {
  static constexpr const char* kRoles[] = {"system", "developer", "user", "assistant", "tool"};
  if (request.messages_size() == 0 || request.messages_size() > kMaxMessages) {
    violations.Add("messages",
                   absl::StrCat(request.messages_size(), " messages; from 1 to ", kMaxMessages));
    return;
  }
  size_t bytes = 0;
  for (int i = 0; i < request.messages_size(); ++i) {
    const std::string& role = request.messages(i).role();
    if (std::find(std::begin(kRoles), std::end(kRoles), role) == std::end(kRoles)) {
      violations.Add(absl::StrCat("messages[", i, "].role"),
                     absl::StrCat(Quoted(role, 40), " is none of ", absl::StrJoin(kRoles, ", ")));
    }
    bytes += request.messages(i).content().size();
  }
  if (bytes > kMaxPromptBytes) {
    violations.Add("messages", absl::StrCat(bytes, " bytes of content; at most ", kMaxPromptBytes));
  }
}

// Everything that says how to generate, from a GenerateRequest or a ChatRequest.
template <typename Request>
void TakeOptions(const Request& request, const RequestBounds& bounds,
                 std::chrono::steady_clock::time_point now, GenerationRequest& parsed,
                 Violations& violations) {
  if (request.has_max_tokens()) {
    TakeUint("max_tokens", request.max_tokens(), 1, std::numeric_limits<uint32_t>::max(),
             parsed.max_tokens, violations);
  }
  TakeSampling(request.sampling(), bounds.tokenizer, parsed.sampling, violations);
  TakeStop(request.stop(), bounds.tokenizer, parsed.stop, violations);
  TakePruning(request.pruning(), bounds.pruning, parsed.pruning, violations);
  if (request.has_max_duration()) {
    TakeDuration(request.max_duration(), now, parsed, violations);
  }
  if (!IsValidRequestId(request.request_id())) {
    violations.Add("request_id", absl::StrCat("must be at most ", kMaxRequestIdBytes,
                                              " printable ASCII characters without spaces"));
  }
}

absl::Status CheckContext(size_t prompt_tokens, uint32_t context_tokens) {
  if (prompt_tokens < context_tokens) return absl::OkStatus();
  google::rpc::ErrorInfo info;
  info.set_reason("CONTEXT_LENGTH_EXCEEDED");
  info.set_domain(kErrorDomain);
  (*info.mutable_metadata())["prompt_tokens"] = absl::StrCat(prompt_tokens);
  (*info.mutable_metadata())["context_tokens"] = absl::StrCat(context_tokens);
  absl::Status status = absl::OutOfRangeError(absl::StrCat(
      "the prompt has ", prompt_tokens, " tokens; with one generated token it must fit ",
      "into the context of ", context_tokens));
  AddDetail(info, status);
  return status;
}

}  // namespace

void Violations::Add(std::string field, const std::string& description) {
  ++count_;
  if (violations_.size() < kMaxReportedViolations) {
    violations_.push_back({std::move(field), Printable(description, kMaxDescriptionBytes)});
  }
}

absl::Status Violations::ToStatus() const {
  CHECK(!empty());
  google::rpc::BadRequest bad_request;
  for (const Violation& violation : violations_) {
    auto* field = bad_request.add_field_violations();
    field->set_field(violation.field);
    field->set_description(violation.description);
  }
  std::string message =
      absl::StrCat(violations_.front().field, ": ", violations_.front().description);
  if (count_ > 1) absl::StrAppend(&message, " (and ", count_ - 1, " more)");
  absl::Status status = absl::InvalidArgumentError(message);
  AddDetail(bad_request, status);
  return status;
}

bool IsValidRequestId(std::string_view id) {
  return id.size() <= kMaxRequestIdBytes &&
         std::all_of(id.begin(), id.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

absl::StatusOr<GenerationRequest> ParseGenerateRequest(const v1::GenerateRequest& request,
                                                       const RequestBounds& bounds,
                                                       std::chrono::steady_clock::time_point now) {
  GenerationRequest parsed;
  Violations violations;
  TakePrompt(request, bounds.tokenizer, parsed.prompt, violations);
  TakeOptions(request, bounds, now, parsed, violations);
  if (!violations.empty()) return violations.ToStatus();

  if (request.has_text()) parsed.prompt = bounds.tokenizer.Encode(request.text(), true);
  RETURN_IF_ERROR(CheckContext(parsed.prompt.size(), bounds.context_tokens));
  return parsed;
}

absl::StatusOr<GenerationRequest> ParseChatRequest(const v1::ChatRequest& request,
                                                   const RequestBounds& bounds,
                                                   std::chrono::steady_clock::time_point now,
                                                   MakePrompt make_prompt) {
  GenerationRequest parsed;
  Violations violations;
  CheckMessages(request, violations);
  TakeOptions(request, bounds, now, parsed, violations);
  if (!violations.empty()) return violations.ToStatus();

  ASSIGN_OR_RETURN(parsed.prompt, make_prompt(request));
  if (parsed.prompt.empty()) {
    violations.Add("messages", "the chat template makes an empty prompt of them");
    return violations.ToStatus();
  }
  RETURN_IF_ERROR(CheckContext(parsed.prompt.size(), bounds.context_tokens));
  return parsed;
}

absl::Status CheckTokenizeRequest(const v1::TokenizeRequest& request) {
  Violations violations;
  if (request.text().size() > kMaxPromptBytes) {
    violations.Add("text",
                   absl::StrCat(request.text().size(), " bytes; at most ", kMaxPromptBytes));
  }
  return violations.empty() ? absl::OkStatus() : violations.ToStatus();
}

absl::Status CheckDetokenizeRequest(const v1::DetokenizeRequest& request,
                                    const Tokenizer& tokenizer) {
  Violations violations;
  if (static_cast<size_t>(request.token_ids_size()) > kMaxDetokenizeIds) {
    violations.Add("token_ids",
                   absl::StrCat(request.token_ids_size(), " ids; at most ", kMaxDetokenizeIds));
    return violations.ToStatus();
  }
  for (int i = 0; i < request.token_ids_size(); ++i) {
    if (!IsToken(request.token_ids(i), tokenizer)) {
      violations.Add(absl::StrCat("token_ids[", i, "]"),
                     TokenRange(request.token_ids(i), tokenizer));
    }
  }
  return violations.empty() ? absl::OkStatus() : violations.ToStatus();
}

}  // namespace tidegate
