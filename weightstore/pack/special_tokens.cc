#include "weightstore/pack/special_tokens.h"

#include <algorithm>
#include <string>
#include <string_view>

namespace tidegate {
namespace {

constexpr uint32_t kControl = 3, kUserDefined = 4;

constexpr std::string_view kTurnEnds[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "<|return|>",
    "<|END_OF_TURN_TOKEN|>",
};

bool Frames(std::string_view begin, std::string_view text, std::string_view end) {
  return text.size() > begin.size() + end.size() && text.substr(0, begin.size()) == begin &&
         text.substr(text.size() - end.size()) == end;
}

bool LooksLikeMarkup(std::string_view text) {
  // U+FF5C, as DeepSeek writes it.
  return Frames("<|", text, "|>") || Frames("<\xef\xbd\x9c", text, "\xef\xbd\x9c>") ||
         text == "<start_of_turn>" || text == "<end_of_turn>";
}

}  // namespace

void MarkSpecialTokens(store::v1::Tokenizer& tokenizer) {
  for (int id = 0; id < tokenizer.tokens_size(); ++id) {
    uint32_t type = tokenizer.types(id);
    if (type != kControl && type != kUserDefined) continue;
    const std::string& text = tokenizer.tokens(id);
    const bool ends = std::count(std::begin(kTurnEnds), std::end(kTurnEnds), text) > 0;
    if (ends || LooksLikeMarkup(text)) tokenizer.set_types(id, kControl);
    if (ends) tokenizer.add_end_ids(static_cast<uint32_t>(id));
  }
}

}  // namespace tidegate
