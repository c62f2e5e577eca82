// Finds the tokenizer of a model file, whatever kind of model file it is. Stateless, thread-safe.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/tokenizer/tokenizer.h"

namespace tidegate {

// `model` is a GGUF file, with or without weights, or a pack, which its first bytes say, or a
// Hugging Face folder. Errors: NOT_FOUND, INVALID_ARGUMENT (none of these, or a tokenizer that is
// not supported), those of the readers; each names the file.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model);

}  // namespace tidegate
