// What store and engine assume alike where nobody says otherwise. Constants, plain data.
#pragma once

#include <cstdint>

namespace tidegate {

// Tokens of the context that the store reserves memory for and that the engine offers: the model's
// own, at most so many. A longer one must be asked for: its KV cache is memory that slots could
// use.
inline constexpr uint32_t kDefaultContextTokens = 4096;

// Prompt tokens of a step at most: weights are streamed and decoded once per chunk.
inline constexpr uint32_t kDefaultPromptRows = 256;

// The engine keeps keys and values in pages of so many positions; what the store reserves for them
// is whole pages.
inline constexpr uint32_t kKvPageTokens = 32;

}  // namespace tidegate
