// What one way of pruning costs in accuracy and saves in reading, measured on a text: the work
// behind `tidegate eval`. Thread-compatible.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/pruning.h"
#include "measure/local_model.h"
#include "simulator/memory_model.h"

namespace tidegate {

// A way to run the MLPs.
struct EvalPoint {
  std::string method;  // "dense", "dip", "dip_ca", or a name of measure/baseline_masks.h
  double density = 1;
  double gamma = 1;           // of dip_ca
  double cache_fraction = 1;  // share of each layer's units of each kind that the cache holds
};

// A question with one right answer among several continuations of a context.
struct ChoiceQuestion {
  std::vector<TokenId> context;  // at least one token
  std::vector<std::vector<TokenId>> choices;
  std::vector<size_t> choice_bytes;  // length of the text of each
  size_t answer = 0;                 // index of the right one

  uint32_t tokens() const;  // with the longest choice
};

struct EvalTask {
  std::span<const TokenId> tokens;
  uint32_t chunk = 256;  // tokens per chunk, each scored from an empty key/value cache
  uint64_t chunks = 0;   // REQUIRES: chunks * chunk < tokens.size()
  std::span<const ChoiceQuestion> questions;
  KvType kv_type = KvType::kF32;
  Precision precision = Precision::kFast;
  // Chunks that advance together, a token of each in a step, as streams of an engine do. Dense text
  // is scored as prompts.
  uint32_t streams = 1;

  uint64_t all_tokens() const;  // of chunks and questions: what a run counts up to
};

struct EvalResult {
  EvalPoint point;
  uint64_t tokens = 0;
  double nll = 0;      // nats per token
  double density = 1;  // used: share of the MLP weights, in mixtures of the experts in use
  double kept_units[kUnitKinds] = {0, 0};    // per layer and token
  double hit_units[kUnitKinds] = {0, 0};     // per token, all layers
  double missed_units[kUnitKinds] = {0, 0};  // the same
  double flash_bytes = 0;     // per token: whole blocks where they hold several units
  double flash_share = 0;     // read per token, of all MLP weights
  uint64_t memory_bytes = 0;  // static weights, key/value cache of a chunk, cached units
  double modelled_tokens_per_second = 0;  // on a modelled device, see ModelSpeed()
  double times_streaming = 1;  // over reading every weight with the same share of units in memory
  // Share of questions whose right answer has the largest likelihood; per byte of its text.
  std::optional<double> accuracy, accuracy_per_byte;

  double perplexity() const;
  double hit_rate(UnitKind kind) const;
  double hit_rate() const;
};

// Runs a task at one point. The weight cache is empty at the start and kept across chunks; with
// pruning every token is pruned as if it were generated. on_tokens: called with the number of
// tokens done so far, fails the run if it fails. The model must have been opened with the point's
// cache fraction. step: of dip and dip_ca, null for the others.
absl::StatusOr<EvalResult> Evaluate(LocalModel& local, const EvalTask& task, const EvalPoint& point,
                                    const RowPruning* step,
                                    const std::function<absl::Status(uint64_t)>& on_tokens);

// Fills in what the device model says about `result`.
void ModelSpeed(const LocalModel& local, const EvalTask& task, const DeviceSpeeds& device,
                EvalResult& result);

// Among results, those that no other beats in both perplexity and modelled speed, fastest first.
std::vector<size_t> ParetoFront(std::span<const EvalResult> results);

// The result with the smallest perplexity among those at least `times` as fast as streaming with
// the same memory; none if none is.
std::optional<size_t> BestAt(std::span<const EvalResult> results, double times);

}  // namespace tidegate
