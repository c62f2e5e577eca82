// How byte-level vocabularies cut texts into words, by the names that GGUF files use
// (tokenizer.ggml.pre). Patterns are those of the models' published tokenizer.json files, in the
// syntax of PCRE2 with UTF and UCP; engine/tokenizer/pre_tokenizer.h applies them. Stateless,
// thread-safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tidegate {

struct PreTokenizerRecipe {
  std::vector<const char*> patterns;  // applied in turn, matches isolated
  bool ignore_merges = false;         // a word that is a token needs no merges
  bool adds_bos = false;              // where the file does not say
};

// INVALID_ARGUMENT: an unknown name; the message lists the known ones.
absl::StatusOr<PreTokenizerRecipe> FindPreTokenizer(const std::string& name);

// The cut of GPT-2, which tokenizer.json calls ByteLevel.
const char* Gpt2Pattern();

}  // namespace tidegate
