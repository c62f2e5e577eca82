// Added and special tokens, as readers of tokenizers set them: what files say, and what files do
// not say, or say wrongly, and the texts of tokens give away. Stateless, thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

// More tokens than any vocabulary has.
inline constexpr uint64_t kMaxTokens = 1u << 21;

struct AddedToken {
  uint64_t id = 0;
  std::string text;
  bool special = false;  // a control token; others are found in any text
  bool strip_left = false, strip_right = false;
};

// Sets a token, which may lie in the vocabulary or behind its end; tokens between are unused ones.
// INVALID_ARGUMENT: an id above kMaxTokens.
absl::Status SetAddedToken(const AddedToken& token, store::v1::Tokenizer& tokenizer);

// Whether `text` is one of "<0x00>" to "<0xFF>".
bool IsByteToken(const std::string& text);

// Makes user-defined tokens that look like markup of a conversation ("<|im_start|>") control
// tokens: files of older converters call them user-defined, and then text of a user could begin a
// turn. Lists the tokens that end a turn ("<|im_end|>", "<end_of_turn>") in end_ids; a file's EOS
// is often only the one that ends a document. REQUIRES: a type for each token.
void MarkSpecialTokens(store::v1::Tokenizer& tokenizer);

}  // namespace tidegate
