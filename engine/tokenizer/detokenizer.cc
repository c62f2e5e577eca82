#include <string>

#include "base/utf8.h"
#include "engine/tokenizer/tokenizer.h"

namespace tidegate {

StreamingDetokenizer::StreamingDetokenizer(const Tokenizer& tokenizer, bool continues_text)
    : tokenizer_(tokenizer), drop_space_(!continues_text && tokenizer.adds_space_prefix()) {}

std::string StreamingDetokenizer::Add(TokenId id) {
  std::string_view piece = tokenizer_.Piece(id);
  if (tokenizer_.IsAdded(id)) {
    drop_space_ = tokenizer_.adds_space_prefix();  // As Decode(): the text after it has its own.
  } else if (!piece.empty()) {
    if (drop_space_ && piece.front() == ' ') piece.remove_prefix(1);
    drop_space_ = false;
  }
  if (piece.empty()) return "";
  pending_.append(piece);
  return TakeComplete(/*all=*/false);
}

std::string StreamingDetokenizer::Finish() { return TakeComplete(/*all=*/true); }

std::string StreamingDetokenizer::TakeComplete(bool all) {
  std::string text;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Step step = NextUtf8(rest);
    if (step.kind == Utf8Kind::kIncomplete && !all) break;
    text.append(step.kind == Utf8Kind::kCharacter ? rest.substr(0, step.bytes)
                                                  : kReplacementCharacter);
    rest.remove_prefix(step.bytes);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return text;
}

}  // namespace tidegate
