// From a conversation to the ids of a prompt: the model's chat template (or the operator's) makes a
// text, special tokens of the template become control tokens, everything else is split as text.
//
// What came from the messages keeps a mark through the template (template/text.h), so the
// characters of a special token in a user's words stay words. Roles are not marked:
// request_validation.h lets only known ones through. Thread-safe.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "engine/engine.h"
#include "template/template.h"
#include "tidegate/v1/generation.pb.h"

namespace tidegate {

inline constexpr size_t kMaxChatTemplateBytes = 1 << 20;

// Control tokens of a vocabulary by their text.
class SpecialTokens {
 public:
  // `tokenizer` must outlive this.
  explicit SpecialTokens(const Tokenizer& tokenizer);

  // Ids of `text`: control tokens where their text stands outside the marked spans, the longest at
  // each place; what lies between them as Tokenizer::Encode() splits it. With BOS in front where
  // the model asks for it and the text does not begin with it.
  std::vector<TokenId> Encode(const jinja::Text& text) const;

 private:
  struct Match {
    TokenId id = -1;
    size_t bytes = 0;
  };
  Match Longest(std::string_view text) const;

  const Tokenizer& tokenizer_;
  std::unordered_map<std::string_view, TokenId> ids_;
  std::array<std::vector<size_t>, 256> lengths_;  // by first byte, descending
};

// The prompts of one server. Remembers what it derived from the model that is served.
class ChatPrompts {
 public:
  // `override_template`: instead of every model's own; "": none. INVALID_ARGUMENT if it is none.
  static absl::StatusOr<ChatPrompts> Create(const std::string& override_template);
  ChatPrompts(ChatPrompts&&) = default;

  // FAILED_PRECONDITION: the model has no template, or it cannot be rendered (line and cause
  // named). INVALID_ARGUMENT: the template refuses the conversation.
  absl::StatusOr<std::vector<TokenId>> Make(const v1::ChatRequest& request, const ModelInfo& model,
                                            const std::shared_ptr<const Tokenizer>& tokenizer);

 private:
  // Of the model that is served now.
  struct Derived {
    std::string source;
    std::shared_ptr<const jinja::Template> chat_template;
    std::shared_ptr<const Tokenizer> tokenizer;
    std::shared_ptr<const SpecialTokens> specials;
  };
  struct Cache {
    Mutex mutex;
    Derived derived ABSL_GUARDED_BY(mutex);
  };

  ChatPrompts() = default;
  absl::StatusOr<Derived> Derive(const ModelInfo& model,
                                 const std::shared_ptr<const Tokenizer>& tokenizer);

  std::string override_;
  std::unique_ptr<Cache> cache_ = std::make_unique<Cache>();
};

}  // namespace tidegate
