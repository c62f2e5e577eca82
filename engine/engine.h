// The engine: one model, attached to a weight store, decoding several requests together.
//
//   Submit() checks a request and puts it into a bounded queue. One decode thread runs steps: each
//   computes the next token of every sequence that decodes and a chunk of prompts (scheduler.h).
//   Requests join and leave at each step, as far as max_running and the KV cache have room. Tokens
//   go to the request's sink.
//
// No gRPC and no protobuf of the service in here. Thread-safe: every public method.
// If the store goes away, running requests end with UNAVAILABLE and the engine re-attaches on its
// own (back-off 50 ms .. 2 s); until then ready() is false and Submit() answers UNAVAILABLE. The
// same holds while a store, or its drive, hangs without dying (EngineOptions::stall_time); requests
// can be cancelled, run into their limits and drain meanwhile.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/engine_options.h"
#include "engine/engine_stats.h"
#include "engine/generation.h"
#include "engine/model_info.h"
#include "engine/tokenizer/tokenizer.h"

namespace tidegate {

class Engine {
 public:
  // `observer` may be null; not owned, must outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options,
                                                        EngineObserver* observer);
  // Ends every request with kCancelled and joins the decode thread.
  virtual ~Engine() = default;

  // Errors: INVALID_ARGUMENT (field and range named), OUT_OF_RANGE (prompt + 1 exceeds the context;
  // the limits are named), RESOURCE_EXHAUSTED (queue full), UNAVAILABLE (no store, or draining).
  // Sinks are held until OnDone. Returns an id for Cancel().
  //
  // A sink for each of request.choices: the prompt is computed once, then each choice goes on from
  // it as a stream of its own, choice i with seed + i (mod 2^64), or a random one where the request
  // has none. It draws what a request for one choice with that seed draws. REQUIRES: as many sinks
  // as choices.
  virtual absl::StatusOr<uint64_t> SubmitChoices(
      GenerationRequest request, std::vector<std::shared_ptr<GenerationSink>> sinks) = 0;
  // The same for one choice.
  absl::StatusOr<uint64_t> Submit(GenerationRequest request, std::shared_ptr<GenerationSink> sink) {
    return SubmitChoices(std::move(request), {std::move(sink)});
  }

  // Ends the request, all of its choices, with kCancelled within one token step, or while that
  // waits for the store; its leases and KV are free then. Unknown or finished ids are ignored.
  virtual void Cancel(uint64_t id) = 0;

  // From now on Submit() answers UNAVAILABLE; returns when nothing runs or waits, or at `deadline`,
  // when what is left ends with kDraining (its text is kept).
  virtual void Drain(std::chrono::steady_clock::time_point deadline) = 0;

  // True when attached, to a store that is not stalled, and not draining.
  virtual bool ready() const = 0;
  virtual EngineStats stats() const = 0;

  // UNAVAILABLE until the first attach. The model may change when the store restarts on another
  // pack.
  virtual absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer() const = 0;
  virtual absl::StatusOr<ModelInfo> model_info() const = 0;
  virtual uint32_t context_tokens() const = 0;  // 0 until the first attach
  virtual const PruningBounds& pruning_bounds() const = 0;
};

}  // namespace tidegate
