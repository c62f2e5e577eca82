// Drives a decoder for one sequence alone: what tools and tests do. The engine puts many into a
// step (engine.cc). Functions of the thread that owns the decoder.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "absl/status/status.h"
#include "engine/decoder.h"

namespace tidegate {

// How many of the `left` tokens of a prompt to compute next: as few chunks as `chunk_tokens`
// allows, all of about the same length.
uint32_t ChunkTokens(size_t left, uint32_t chunk_tokens);

// Called with the logits [embedding_rows] of a position.
using OnPosition = std::function<void(uint32_t position, std::span<float> logits)>;

// Appends prompt tokens in one step. logits [embedding_rows] receives those of the last token
// unless it is empty; on_position, if set, is called for every token. Errors and requirements:
// Decoder::Run(); what failed for the sequence alone is an error too. Adds to `accounts`.
absl::Status AppendPrompt(Decoder& decoder, KvCache& kv, std::span<const TokenId> tokens,
                          Precision precision, std::span<float> logits, PassAccounts& accounts,
                          const OnPosition& on_position = nullptr);

// Appends a whole prompt in chunks.
absl::Status AppendPromptInChunks(Decoder& decoder, KvCache& kv, std::span<const TokenId> tokens,
                                  uint32_t chunk_tokens, Precision precision,
                                  std::span<float> logits, PassAccounts& accounts,
                                  const OnPosition& on_position = nullptr);

// Appends one token of decode form; prune null: dense.
absl::Status AppendToken(Decoder& decoder, KvCache& kv, TokenId token, const RowPruning* prune,
                         Precision precision, std::span<float> logits, PassAccounts& accounts);

}  // namespace tidegate
