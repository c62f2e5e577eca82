// Files of token ids: numbers separated by spaces, commas or lines; a JSON array is one too.
// Stateless, thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/tokenizer/tokenizer.h"

namespace tidegate {

// Errors: NOT_FOUND; INVALID_ARGUMENT names the file and what is not a number.
absl::StatusOr<std::vector<TokenId>> ReadTokenIds(const std::string& path);

// INVALID_ARGUMENT names the first id outside [0, vocab).
absl::Status CheckTokenIds(std::span<const TokenId> ids, uint32_t vocab);

}  // namespace tidegate
