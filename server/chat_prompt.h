// From a conversation to the ids of a prompt: the model's chat template (or the operator's) makes a
// text, special tokens of the template become control tokens, everything else is split as text.
//
// What came from the messages keeps a mark through the template (template/text.h), so the
// characters of a special token in a user's words stay words. Roles are not marked:
// parse_request.h lets only known ones through. Thread-safe.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "engine/engine.h"
#include "template/template.h"
#include "tidegate/v1/generation.pb.h"

namespace tidegate {

inline constexpr size_t kMaxChatTemplateBytes = 1 << 20;

// Ids of a rendering: names of control tokens are control tokens outside the marked spans, all else
// is text. With BOS in front where the model asks for it, once; never with EOS behind.
std::vector<TokenId> EncodeRendering(const Tokenizer& tokenizer, const jinja::Text& text);

// The prompts of one server. Remembers what it derived from the model that is served.
class ChatPrompts {
 public:
  // `override_template`: instead of every model's own; "": none. INVALID_ARGUMENT if it is none.
  static absl::StatusOr<ChatPrompts> Create(const std::string& override_template);
  ChatPrompts(ChatPrompts&&) = default;

  // FAILED_PRECONDITION: the model has no template, or it cannot be rendered (line and cause
  // named). INVALID_ARGUMENT: the template refuses the conversation.
  absl::StatusOr<std::vector<TokenId>> Make(const v1::ChatRequest& request, const ModelInfo& model,
                                            const Tokenizer& tokenizer);

 private:
  // The template of the model that was asked last.
  struct Cache {
    Mutex mutex;
    std::optional<std::string> source ABSL_GUARDED_BY(mutex);
    absl::StatusOr<std::shared_ptr<const jinja::Template>> parsed ABSL_GUARDED_BY(mutex);
  };

  ChatPrompts() = default;
  // What is wrong with it is logged once, with the flag that mends it.
  absl::StatusOr<std::shared_ptr<const jinja::Template>> TemplateOf(const ModelInfo& model);

  std::string override_;
  std::unique_ptr<Cache> cache_ = std::make_unique<Cache>();
};

}  // namespace tidegate
