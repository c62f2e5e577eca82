#include "weightstore/pack/special_tokens.h"

#include <algorithm>
#include <string>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace tidegate {
namespace {

constexpr uint32_t kControl = 3, kUserDefined = 4, kUnused = 5;

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

absl::Status SetAddedToken(const AddedToken& token, store::v1::Tokenizer& tokenizer) {
  if (token.id >= kMaxTokens) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: an added token has the id ",
                                                   token.id, "; ids are below ", kMaxTokens));
  }
  const int id = static_cast<int>(token.id);
  const bool scored = tokenizer.scores_size() > 0;
  while (tokenizer.tokens_size() <= id) {
    tokenizer.add_tokens(absl::StrCat("[UNUSED_", tokenizer.tokens_size(), "]"));
    tokenizer.add_types(kUnused);
    if (scored) tokenizer.add_scores(0);
  }
  tokenizer.set_tokens(id, token.text);
  tokenizer.set_types(id, token.special ? kControl : kUserDefined);
  if (token.strip_left) tokenizer.add_strip_left_ids(static_cast<uint32_t>(id));
  if (token.strip_right) tokenizer.add_strip_right_ids(static_cast<uint32_t>(id));
  return absl::OkStatus();
}

bool IsByteToken(const std::string& text) {
  return text.size() == 6 && text.compare(0, 3, "<0x") == 0 && text[5] == '>' &&
         absl::ascii_isxdigit(static_cast<unsigned char>(text[3])) &&
         absl::ascii_isxdigit(static_cast<unsigned char>(text[4]));
}

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
