// What one step of the decoder computes: rows of any sequences, together. A row is one token at one
// position of one sequence. Plain data, valid for one call of Decoder::Run().
//
// A row's bits depend on its own sequence and on its form, never on the rows beside it; only masks
// that look at the cache, and rows that may be computed dense instead, depend on what others do.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/kernels/kernels.h"
#include "engine/kv/kv_cache.h"
#include "engine/pass_accounts.h"
#include "engine/pruning.h"
#include "engine/tokenizer/tokenizer.h"

namespace tidegate {

// Which order of sums computes a row; the two round differently.
enum class RowForm : uint8_t {
  kPrompt,  // matrix products over many rows; dense
  kDecode,  // column by column; dense or pruned
};

// The rows of one sequence in a step. Pointers are not owned.
struct BatchSequence {
  KvCache* kv = nullptr;            // rows are appended behind kv->size()
  std::span<const TokenId> tokens;  // of consecutive positions
  RowForm form = RowForm::kDecode;
  const RowPruning* prune = nullptr;  // of decode rows; null: dense
  Precision precision = Precision::kExact;
  uint32_t logit_rows = 1;  // the last so many rows give logits
};

// What a step cost, and how each sequence fared, by its index in the batch. A unit counts for every
// row of decode form that uses it and once for the prompt rows of a sequence; what is read counts
// in equal parts for those that wanted it, so that the parts sum up to `step`.
struct StepCost {
  PassAccounts step;
  std::vector<PassAccounts> sequences;
  // Not OK: this sequence's own numbers are to blame (INTERNAL, kNumbersNotFinite). Its cache has
  // not grown, the others' have.
  std::vector<absl::Status> statuses;
};

}  // namespace tidegate
