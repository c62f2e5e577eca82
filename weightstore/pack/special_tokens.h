// What a model file does not say about its tokens, or says wrongly, and their texts give away.
// Stateless, thread-safe.
#pragma once

#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

// Makes user-defined tokens that look like markup of a conversation ("<|im_start|>") control
// tokens: files of older converters call them user-defined, and then text of a user could begin a
// turn. Lists the tokens that end a turn ("<|im_end|>", "<end_of_turn>") in end_ids; a file's EOS
// is often only the one that ends a document. REQUIRES: a type for each token.
void MarkSpecialTokens(store::v1::Tokenizer& tokenizer);

}  // namespace tidegate
