// Which texts look like the markup of a conversation, and which of them a chat template writes.
// Looks at characters and knows a few names; what becomes of such tokens is special_tokens.h.
//
// Stateless but for the set that TemplateMarkup holds; thread-safe after creation.
#pragma once

#include <string>
#include <string_view>

#include "absl/container/flat_hash_set.h"

namespace tidegate {

enum class Markup {
  kNone,
  kTag,      // "<think>", "</s>", "[TOOL]": people, code and models write such things on purpose
  kSpecial,  // "<|im_start|>", "<start_of_turn>", "[INST]": only templates do
};
Markup MarkupOf(std::string_view text);

// Whether a token of this name ends an answer in every model that has it.
bool EndsTurn(std::string_view text);
// The same in models that name no EOS.
bool EndsDocument(std::string_view text);

// "</x>" of "<x>", "[/x]" of "[x]", and the other way round. REQUIRES: markup of kTag.
std::string CounterpartOf(std::string_view tag);

class TemplateMarkup {
 public:
  // `templates`: Jinja sources, one after the other. Time O(n).
  explicit TemplateMarkup(std::string_view templates);

  // Whether they write `text`: as it stands, or as the name of a role between "<|" and "|>" that
  // they put together.
  bool Writes(std::string_view text) const;

 private:
  absl::flat_hash_set<std::string> texts_;
  bool composes_ = false;
};

}  // namespace tidegate
