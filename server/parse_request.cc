#include "server/parse_request.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "engine/request_limits.h"
#include "google/rpc/error_details.pb.h"
#include "server/status_mapping.h"
#include "server/violations.h"

namespace tidegate {
namespace {

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
                       NotAToken(*wrong, tokenizer));
      } else {
        prompt.assign(ids.begin(), ids.end());
      }
      break;
    }
  }
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

// Needs the length of the prompt.
absl::Status CheckPromptLogprobs(const GenerationRequest& request) {
  if (PromptLogprobsOf(request) <= kMaxPromptLogprobs) return absl::OkStatus();
  Violations violations;
  violations.Add("prompt_logprobs",
                 absl::StrCat(*request.prompt_logprobs, " of each of ", request.prompt.size(),
                              " tokens, and their own, are more than ", kMaxPromptLogprobs,
                              "; ask for fewer or send the prompt in parts"));
  return violations.ToStatus();
}

}  // namespace

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
  RETURN_IF_ERROR(CheckPromptLogprobs(parsed));
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
  RETURN_IF_ERROR(CheckPromptLogprobs(parsed));
  return parsed;
}

absl::Status CheckCancelRequest(const v1::CancelRequest& request) {
  Violations violations;
  if (request.request_id().empty()) {
    violations.Add("request_id", "is missing; Started names it");
  } else if (!IsValidRequestId(request.request_id())) {
    violations.Add("request_id", NotARequestId());
  }
  return violations.empty() ? absl::OkStatus() : violations.ToStatus();
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
                     NotAToken(request.token_ids(i), tokenizer));
    }
  }
  return violations.empty() ? absl::OkStatus() : violations.ToStatus();
}

}  // namespace tidegate
