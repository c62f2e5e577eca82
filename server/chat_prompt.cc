#include "server/chat_prompt.h"

#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "server/parse_request.h"
#include "server/status_mapping.h"
#include "server/violations.h"

namespace tidegate {
namespace {

// A prompt may be longer than the messages, but not by much. 4096 messages take some 300,000 steps.
constexpr size_t kMaxRenderedBytes = 2 * kMaxPromptBytes;
constexpr uint64_t kMaxSteps = 2'000'000;

jinja::Variables MakeVariables(const v1::ChatRequest& request, const Tokenizer& tokenizer) {
  std::vector<jinja::Value> messages;
  messages.reserve(static_cast<size_t>(request.messages_size()));
  for (const v1::ChatMessage& message : request.messages()) {
    messages.push_back(jinja::MakeDict(
        {{jinja::Value::Trusted("role"), jinja::Value::Trusted(message.role())},
         {jinja::Value::Trusted("content"), jinja::Value::Data(message.content())}}));
  }
  jinja::Variables variables = {
      {"messages", jinja::MakeList(std::move(messages))},
      {"add_generation_prompt", true},
      {"tools", jinja::Value::None()},
      {"documents", jinja::Value::None()},
  };
  const auto add_token = [&](const char* name, TokenId id) {
    if (id < 0) return;
    variables.emplace_back(name, jinja::Value::Trusted(tokenizer.Piece(id, true)));
  };
  add_token("bos_token", tokenizer.bos_id());
  add_token("eos_token", tokenizer.eos_id());
  return variables;
}

// A rendering's error as an error of the call.
absl::Status ForCaller(const absl::Status& status) {
  const std::string message(status.message());
  if (status.code() == absl::StatusCode::kInvalidArgument) {
    Violations violations;
    violations.Add("messages", absl::StrCat("the chat template refuses them: ", message));
    return violations.ToStatus();
  }
  return WithReason(absl::FailedPreconditionError(
                        absl::StrCat("the chat template cannot be rendered: ", message)),
                    "CHAT_TEMPLATE_FAILED");
}

// `source`: a model's, "" if it has none.
absl::StatusOr<std::shared_ptr<const jinja::Template>> ParseTemplate(const std::string& source) {
  constexpr char kRemedy[] = "; another one may be given with --chat-template FILE";
  if (source.empty()) {
    LogWarning("Chat is refused: the model has no chat template", kRemedy);
    return WithReason(
        absl::FailedPreconditionError("the model has no chat template; use Generate with a prompt "
                                      "of your own (over HTTP: /v1/completions)"),
        "NO_CHAT_TEMPLATE");
  }
  auto parsed = jinja::Template::Parse(source);
  if (parsed.ok()) return std::shared_ptr<const jinja::Template>(*std::move(parsed));
  LogWarning("Chat is refused: the model's chat template: ",
             Printable(std::string(parsed.status().message())), kRemedy);
  return ForCaller(absl::FailedPreconditionError(std::string(parsed.status().message())));
}

}  // namespace

std::vector<TokenId> EncodeRendering(const Tokenizer& tokenizer, const jinja::Text& text) {
  std::vector<PromptPart> parts;
  size_t at = 0;
  const auto add = [&](size_t end, bool trusted) {
    if (end > at) parts.push_back({text.view().substr(at, end - at), trusted});
    at = end;
  };
  for (const jinja::Text::Span& span : text.data_spans()) {
    add(span.begin, true);
    add(span.end, false);
  }
  add(text.size(), true);
  std::vector<TokenId> ids = tokenizer.EncodePrompt(parts, /*add_special=*/true);
  // A model that puts EOS behind its texts would end its answer before it begins.
  const std::vector<TokenId> added = tokenizer.Encode("", /*add_special=*/true);
  const bool adds_eos = !added.empty() && added.back() == tokenizer.eos_id() &&
                        (added.size() > 1 || tokenizer.eos_id() != tokenizer.bos_id());
  if (adds_eos) ids.pop_back();
  return ids;
}

absl::StatusOr<ChatPrompts> ChatPrompts::Create(const std::string& override_template) {
  ChatPrompts prompts;
  prompts.override_ = override_template;
  if (!override_template.empty()) {
    const auto parsed = jinja::Template::Parse(override_template);
    if (!parsed.ok()) return Annotate(parsed.status(), "--chat-template");
  }
  return prompts;
}

absl::StatusOr<std::shared_ptr<const jinja::Template>> ChatPrompts::TemplateOf(
    const ModelInfo& model) {
  const std::string& source = override_.empty() ? model.chat_template : override_;
  MutexLock lock(cache_->mutex);
  if (cache_->source != source) {
    cache_->parsed = ParseTemplate(source);
    cache_->source = source;
  }
  return cache_->parsed;
}

absl::StatusOr<std::vector<TokenId>> ChatPrompts::Make(const v1::ChatRequest& request,
                                                       const ModelInfo& model,
                                                       const Tokenizer& tokenizer) {
  ASSIGN_OR_RETURN(const auto chat_template, TemplateOf(model));
  jinja::Limits limits;
  limits.steps = kMaxSteps;
  limits.string_bytes = kMaxRenderedBytes;
  const auto text =
      chat_template->Render(MakeVariables(request, tokenizer), std::time(nullptr), limits);
  if (!text.ok()) return ForCaller(text.status());
  return EncodeRendering(tokenizer, *text);
}

}  // namespace tidegate
