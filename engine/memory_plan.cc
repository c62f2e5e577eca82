#include "engine/memory_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "proto/store/v1/defaults.h"

namespace tidegate {
namespace {

using store::v1::Manifest;

// What is chosen is lowered in this order: sequences to the first number, prompt rows to theirs,
// and then both to the least.
constexpr uint32_t kFewSequences = 8, kFewPromptRows = 64;
constexpr uint32_t kLeastSequences = 1, kLeastPromptRows = 16;

struct Draft {
  const Manifest& manifest;
  const PackGeometry& geometry;
  const MemoryRequest& request;
  uint64_t available = 0;  // of the reserve, beside adapters
  uint32_t sequences = 0, prompt_rows = 0;

  StepWorkspace Workspace() const {
    return WorkspaceOf(manifest, geometry,
                       {.prompt_rows = prompt_rows,
                        .decode_rows = DecodeRowsMax(sequences),
                        .threads = request.threads,
                        .context_tokens = request.context_tokens,
                        .adapter_rank = request.adapter_rank});
  }
  uint64_t FromReserve() const { return WorkspaceFromReserve(Workspace().bytes()); }
  uint64_t Pages() const {
    return (available - std::min(available, FromReserve())) / request.page_bytes;
  }

  // Takes one step down; false: there is nothing left to lower.
  bool Lower() {
    const auto halve = [](uint32_t& number, bool given, uint32_t least) {
      if (given || number <= least) return false;
      number = std::max(least, number / 2);
      return true;
    };
    const bool running = request.max_running != 0, rows = request.prompt_rows != 0;
    return halve(sequences, running, kFewSequences) || halve(prompt_rows, rows, kFewPromptRows) ||
           halve(sequences, running, kLeastSequences) || halve(prompt_rows, rows, kLeastPromptRows);
  }
};

absl::Status TooSmall(const Draft& draft) {
  const MemoryRequest& request = draft.request;
  return absl::FailedPreconditionError(absl::StrCat(
      "the engine's reserve of ", FormatBytes(request.reserve_bytes), " has no room for a page of ",
      FormatBytes(request.page_bytes), " of the KV cache: steps of ", draft.sequences,
      " streams and ", draft.prompt_rows, " prompt tokens with ", request.threads, " threads take ",
      FormatBytes(draft.FromReserve()),
      request.adapter_bytes > 0
          ? absl::StrCat(" of it, adapters ", FormatBytes(request.adapter_bytes))
          : " of it",
      "; start the store with a larger --engine-reserve or the engine with --kv-tokens, or lower ",
      "--max-running, --prefill-chunk or --threads"));
}

}  // namespace

absl::StatusOr<MemoryPlan> PlanMemory(const Manifest& manifest, const PackGeometry& geometry,
                                      const MemoryRequest& request) {
  Draft draft = {manifest, geometry, request};
  draft.available = request.reserve_bytes - std::min(request.reserve_bytes, request.adapter_bytes);
  draft.prompt_rows = request.prompt_rows != 0 ? request.prompt_rows : kDefaultPromptRows;
  const auto pages_of = [](uint64_t tokens) {
    return (tokens + kKvPageTokens - 1) / kKvPageTokens;
  };
  const auto choose_sequences = [&](uint64_t pages) {
    if (request.max_running == 0) draft.sequences = SequencesCarried(pages, request.threads);
  };
  draft.sequences = request.max_running;
  choose_sequences(request.kv_tokens != 0 ? pages_of(request.kv_tokens)
                                          : draft.available / request.page_bytes);
  MemoryPlan plan;
  if (request.kv_tokens == 0) {
    const uint64_t wanted =
        std::min(pages_of(request.context_tokens), draft.available / request.page_bytes);
    while (draft.Pages() < std::max<uint64_t>(1, wanted) && draft.FromReserve() > 0 &&
           draft.Lower()) {
    }
    plan.kv_tokens = draft.Pages() * kKvPageTokens;
    if (plan.kv_tokens == 0) return TooSmall(draft);
    const uint32_t most = draft.sequences;
    choose_sequences(draft.Pages());
    draft.sequences = std::min(draft.sequences, most);
  } else {
    plan.kv_tokens = request.kv_tokens;
    const uint64_t taken = request.adapter_bytes + draft.FromReserve() +
                           pages_of(request.kv_tokens) * request.page_bytes;
    plan.beyond_bytes = taken - std::min(taken, request.reserve_bytes);
  }
  plan.sequences_max = draft.sequences;
  plan.prompt_rows_max = draft.prompt_rows;
  plan.decode_rows_max = DecodeRowsMax(draft.sequences);
  plan.workspace = draft.Workspace();
  return plan;
}

}  // namespace tidegate
