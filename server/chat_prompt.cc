#include "server/chat_prompt.h"

#include <algorithm>
#include <ctime>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/request_validation.h"
#include "server/status_mapping.h"

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
  return WithReason(absl::FailedPreconditionError(absl::StrCat(
                        "the chat template cannot be rendered: ", message,
                        "; another one may be given with tidegate-engine --chat-template FILE")),
                    "CHAT_TEMPLATE_FAILED");
}

bool AddsBos(const Tokenizer& tokenizer) {
  const std::vector<TokenId> ids = tokenizer.Encode("", /*add_special=*/true);
  return !ids.empty() && ids.front() == tokenizer.bos_id();
}

}  // namespace

SpecialTokens::SpecialTokens(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
  for (size_t i = 0; i < tokenizer.vocab_size(); ++i) {
    const TokenId id = static_cast<TokenId>(i);
    const std::string_view text = tokenizer.Piece(id, /*render_special=*/true);
    const bool is_control = !text.empty() && tokenizer.Piece(id).empty();
    if (!is_control || !ids_.emplace(text, id).second) continue;
    lengths_[static_cast<uint8_t>(text.front())].push_back(text.size());
  }
  for (std::vector<size_t>& lengths : lengths_) {
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
    lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  }
}

SpecialTokens::Match SpecialTokens::Longest(std::string_view text) const {
  if (text.empty()) return {};
  for (const size_t bytes : lengths_[static_cast<uint8_t>(text.front())]) {
    const auto found = ids_.find(text.substr(0, bytes));
    if (found != ids_.end() && bytes <= text.size()) return {found->second, bytes};
  }
  return {};
}

std::vector<TokenId> SpecialTokens::Encode(const jinja::Text& text) const {
  std::vector<TokenId> ids;
  const std::string_view view = text.view();
  size_t words = 0;  // where the text that is not split yet begins
  const auto split_words = [&](size_t end) {
    if (end <= words) return;
    const auto split = tokenizer_.Encode(view.substr(words, end - words), /*add_special=*/false);
    ids.insert(ids.end(), split.begin(), split.end());
  };
  // The template's own stretches, between the marked ones.
  size_t own = 0;
  const auto& spans = text.data_spans();
  for (size_t i = 0; i <= spans.size(); ++i) {
    const size_t end = i < spans.size() ? spans[i].begin : view.size();
    for (size_t at = own; at < end;) {
      const Match match = Longest(view.substr(at, end - at));
      if (match.id < 0) {
        ++at;
        continue;
      }
      split_words(at);
      ids.push_back(match.id);
      at += match.bytes;
      words = at;
    }
    if (i < spans.size()) own = spans[i].end;
  }
  split_words(view.size());
  const bool has_bos = !ids.empty() && ids.front() == tokenizer_.bos_id();
  if (!has_bos && AddsBos(tokenizer_)) ids.insert(ids.begin(), tokenizer_.bos_id());
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

absl::StatusOr<ChatPrompts::Derived> ChatPrompts::Derive(
    const ModelInfo& model, const std::shared_ptr<const Tokenizer>& tokenizer) {
  const std::string& source = override_.empty() ? model.chat_template : override_;
  if (source.empty()) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "the model '", model.name,
                          "' has no chat template; start tidegate-engine with "
                          "--chat-template FILE, or use Generate with a prompt of your own")),
                      "NO_CHAT_TEMPLATE");
  }
  MutexLock lock(cache_->mutex);
  Derived& derived = cache_->derived;
  if (derived.chat_template == nullptr || derived.source != source) {
    auto parsed = jinja::Template::Parse(source);
    if (!parsed.ok()) {
      return ForCaller(absl::FailedPreconditionError(std::string(parsed.status().message())));
    }
    derived.chat_template = std::move(*parsed);
    derived.source = source;
  }
  if (derived.tokenizer != tokenizer) {
    derived.specials = std::make_shared<const SpecialTokens>(*tokenizer);
    derived.tokenizer = tokenizer;
  }
  return derived;
}

absl::StatusOr<std::vector<TokenId>> ChatPrompts::Make(
    const v1::ChatRequest& request, const ModelInfo& model,
    const std::shared_ptr<const Tokenizer>& tokenizer) {
  ASSIGN_OR_RETURN(const Derived derived, Derive(model, tokenizer));
  jinja::Limits limits;
  limits.steps = kMaxSteps;
  limits.string_bytes = kMaxRenderedBytes;
  const auto text =
      derived.chat_template->Render(MakeVariables(request, *tokenizer), std::time(nullptr), limits);
  if (!text.ok()) return ForCaller(text.status());
  return derived.specials->Encode(*text);
}

}  // namespace tidegate
