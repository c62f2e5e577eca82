#include "engine/single_sequence.h"

#include <algorithm>

#include "base/check.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

absl::Status RunAlone(Decoder& decoder, const BatchSequence& sequence, std::span<float> logits,
                      PassAccounts& accounts, const OnPosition& on_position) {
  const uint32_t first = sequence.kv->size();
  const auto last = static_cast<uint32_t>(sequence.tokens.size()) - 1;
  RETURN_IF_ERROR(sequence.kv->Grow(last + 1));
  StepCost cost;
  const auto take = [&](size_t, uint32_t index, std::span<float> row) {
    if (on_position != nullptr) on_position(first + index, row);
    if (index != last || logits.empty()) return;
    CHECK(logits.size() == row.size());
    std::ranges::copy(row, logits.begin());
  };
  const bool wanted = on_position != nullptr || !logits.empty();
  const absl::Status done =
      decoder.Run({&sequence, 1}, wanted ? Decoder::OnLogits(take) : nullptr, cost);
  accounts.Add(cost.step);
  return done.ok() ? cost.statuses[0] : done;
}

}  // namespace

uint32_t ChunkTokens(size_t left, uint32_t chunk_tokens) {
  const size_t chunks = std::max<size_t>(1, (left + chunk_tokens - 1) / chunk_tokens);
  return static_cast<uint32_t>((left + chunks - 1) / chunks);
}

absl::Status AppendPrompt(Decoder& decoder, KvCache& kv, std::span<const TokenId> tokens,
                          Precision precision, std::span<float> logits, PassAccounts& accounts,
                          const OnPosition& on_position) {
  const auto all = static_cast<uint32_t>(tokens.size());
  return RunAlone(decoder,
                  {.kv = &kv,
                   .tokens = tokens,
                   .form = RowForm::kPrompt,
                   .precision = precision,
                   .logit_rows = on_position != nullptr ? all
                                 : logits.empty()       ? 0u
                                                        : 1u},
                  logits, accounts, on_position);
}

absl::Status AppendPromptInChunks(Decoder& decoder, KvCache& kv, std::span<const TokenId> tokens,
                                  uint32_t chunk_tokens, Precision precision,
                                  std::span<float> logits, PassAccounts& accounts,
                                  const OnPosition& on_position) {
  while (!tokens.empty()) {
    const uint32_t count = ChunkTokens(tokens.size(), chunk_tokens);
    const bool last = count == tokens.size();
    RETURN_IF_ERROR(AppendPrompt(decoder, kv, tokens.first(count), precision,
                                 last ? logits : std::span<float>(), accounts, on_position));
    tokens = tokens.subspan(count);
  }
  return absl::OkStatus();
}

absl::Status AppendToken(Decoder& decoder, KvCache& kv, TokenId token, const RowPruning* prune,
                         Precision precision, std::span<float> logits, PassAccounts& accounts) {
  return RunAlone(decoder,
                  {.kv = &kv,
                   .tokens = {&token, 1},
                   .form = RowForm::kDecode,
                   .prune = prune,
                   .precision = precision,
                   .logit_rows = 1},  // Also where nobody looks: it goes through every layer.
                  logits, accounts, nullptr);
}

}  // namespace tidegate
