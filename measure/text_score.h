// Texts as tokens, and how well a model foretells them: what `tidegate eval` measures and `tidegate
// pack --calibrate` reports. Stateless.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "measure/local_model.h"

namespace tidegate {

// Bounds of flags: no text of at most 1 GiB has more tokens, and no chunk is longer.
inline constexpr uint64_t kMaxTextTokens = uint64_t{1} << 30;
inline constexpr uint64_t kMaxChunkTokens = 65536;

// Sums over the scored tokens.
struct Score {
  double nll = 0;       // nats
  uint64_t tokens = 0;  // with a target
  PassAccounts accounts;

  double Perplexity() const;  // 1 of no tokens
};

// The documents of a text file, separated by <|endoftext|>, each between BOS and EOS where the
// tokenizer of `model` has them. Errors name the file.
absl::StatusOr<std::vector<TokenId>> TokensOfText(const std::string& path,
                                                  const std::string& model);

// Appends `inputs` to a sequence and adds -log p of the targets: of what follows the last inputs,
// may be fewer. step null: dense. REQUIRES: room in the cache, ids of the model's vocabulary.
absl::Status ScoreTokens(LocalModel& local, KvCache& kv, std::span<const TokenId> inputs,
                         std::span<const TokenId> targets, const RowPruning* step,
                         Precision precision, Score& score);

// The same for several sequences that advance together, a token of each in a step; empty caches.
// inputs and targets: of each sequence, all of the same length. REQUIRES: step is not null.
absl::Status ScoreTogether(LocalModel& local, std::span<KvCache> kvs,
                           std::span<const std::span<const TokenId>> inputs,
                           std::span<const std::span<const TokenId>> targets,
                           const RowPruning* step, Precision precision, Score& score);

}  // namespace tidegate
