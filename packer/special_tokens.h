// Added and special tokens, as readers of tokenizers set them: what files say, and what files do
// not say, or say wrongly, and the texts of tokens give away. Stateless, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

// More tokens than any vocabulary has.
inline constexpr uint64_t kMaxVocabularyTokens = 1u << 21;

struct AddedToken {
  uint64_t id = 0;
  std::string text;
  bool special = false;  // a control token; others are found in any text
  bool strip_left = false, strip_right = false;
};

// Sets a token, which may lie in the vocabulary or behind its end; tokens between are unused ones.
// INVALID_ARGUMENT: an id above kMaxVocabularyTokens.
absl::Status SetAddedToken(const AddedToken& token, store::v1::Tokenizer& tokenizer);

// Whether `text` is one of "<0x00>" to "<0xFF>".
bool IsByteToken(const std::string& text);

// Makes control tokens of those that files give another type and that begin or end the parts of a
// conversation: then a template's markup is one token, a user cannot write it, and an answer ends
// at it. These are
//   - tokens that end a turn by their name ("<|im_end|>") or that the file names as BOS, EOS, EOT
//   or
//     another end, if they look like markup;
//   - markup like "<|user|>" that is user-defined in the file, or that the template writes;
//   - tags like "<turn>" that the template writes and that no merge gives, but pairs such as
//     "<think>", "</think>" become user-defined: they are to be seen.
// Words are left alone. Lists in promoted_ids what it changed, and in end_ids the tokens that end a
// turn by their name; a file's EOS is often only the one that ends a document. The padding of
// converters ("[PAD32011]") becomes unused. `chat_templates`: sources, one after the other, or "".
// REQUIRES: a type for each token.
void MarkSpecialTokens(std::string_view chat_templates, store::v1::Tokenizer& tokenizer);

// The same for a token that another file names as special. REQUIRES: an id in the vocabulary.
void MarkNamedToken(uint32_t id, store::v1::Tokenizer& tokenizer);

// promoted_ids for people: "<|im_start|> (380), <|im_end|> (381)"; "" if there are none.
std::string PromotedText(const store::v1::Tokenizer& tokenizer);

// Leaves out added tokens for which the embedding has no row (Gemma 3 without images has one):
// they can be neither read nor written. INVALID_ARGUMENT: others than added tokens, BOS or EOS are
// among them.
absl::Status DropTokensBehind(uint64_t rows, store::v1::Tokenizer& tokenizer);

}  // namespace tidegate
