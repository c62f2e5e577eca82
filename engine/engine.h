// The engine: one model, attached to a weight store, decoding several requests in turn.
//
//   Submit() checks a request and puts it into a bounded queue. One decode thread admits requests
//   from the queue (at most max_running, as far as the KV cache has room), runs their prompts
//   through dense prefill and then one token per request and round. Tokens go to the request's
//   sink.
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
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/kernels/matmul.h"
#include "engine/sampler.h"
#include "engine/tokenizer.h"
#include "proto/gguf/lora_file.h"

namespace tidegate {

enum class DecodeMode : uint32_t { kDense = 1, kDip = 2, kDipCa = 3 };
std::string_view DecodeModeName(DecodeMode mode);  // "dense", "dip", "dip_ca"
absl::StatusOr<DecodeMode> ParseDecodeMode(std::string_view name);

// "fast", "exact".
std::string_view PrecisionName(Precision precision);
absl::StatusOr<Precision> ParsePrecision(std::string_view name);

// Part of every mask that gamma spares unless told otherwise
// (docs/decisions/0006-masks-beyond-the-paper.md).
inline constexpr float kProtectedShare = 0.75f;

// How the MLP is pruned while generating (method.md; arXiv 2412.01380).
struct PruningParams {
  DecodeMode mode = DecodeMode::kDipCa;
  float density = 0.75f;     // (0, 1], mean over the three MLP matrices; kDense ignores it
  float gamma = 0.2f;        // [0, 1], score factor of units not resident (pruning.h); kDipCa only
  uint32_t fixed_top_n = 0;  // this many largest scores are exempt from gamma
  float protected_share = kProtectedShare;  // [0, 1], see MaskParams
  bool warm_up = true;  // gamma_t = 1 - (1 - gamma)(1 - gamma^(t/4)) at generated token t
  // Masks ignore the cache (gamma = 1), sums run in a fixed order and everything is computed in
  // f32: the same request gives the same tokens whatever the cache holds.
  bool reproducible = false;
  // The request named none of density, gamma, fixed_top_n and protected share: where the engine
  // steers (SteeringOptions), kDipCa takes them from the ladder's present point.
  bool steered = false;

  bool FollowsLadder() const { return steered && mode == DecodeMode::kDipCa && !reproducible; }
};

// What the server allows and assumes.
struct PruningBounds {
  PruningParams defaults;
  float density_min = 0.1f, density_max = 1.0f;
  float gamma_min = 0.0f, gamma_max = 1.0f;
};

// How requests are pruned that leave it to the server: by a point of the profile's ladder
// (proto/store/v1/profile.proto) instead of PruningBounds::defaults. Needs a profile.
struct SteeringOptions {
  std::string profile = {};             // file; empty: the pack's own
  double target_tokens_per_second = 0;  // of each stream; 0: none
  // Alone: the fastest point within it. With a target: no point beyond it is used.
  std::optional<double> max_perplexity_increase = {};  // a share, 0.05 is 5 %

  bool wanted() const { return target_tokens_per_second > 0 || max_perplexity_increase; }
};

// What steering does now.
struct SteeringStats {
  uint32_t points = 0;    // of the ladder that may be used; 0: nothing is steered
  uint32_t position = 0;  // of the present point in the profile; 0: the most accurate
  double density = 0, gamma = 0;
  double predicted_perplexity_increase = 0;  // a share
  double target_tokens_per_second = 0;       // 0: none
  double tokens_per_second = 0;              // of each stream, of the last window; 0: not yet known
  uint64_t moves = 0;                        // since the engine attached
};

struct StopParams {
  std::vector<std::string> strings;  // at most 16 of at most 256 bytes
  std::vector<TokenId> token_ids;    // at most 64
  bool ignore_eos = false;
  bool include_stop_string = false;  // keep the matched string in the text
};

struct GenerationRequest {
  std::vector<TokenId> prompt;  // [1, context); BOS included where wanted
  uint32_t max_tokens = 128;    // generated tokens
  SamplingParams sampling;
  PruningParams pruning;
  StopParams stop;
  // Soft limit: the stream ends with kTimeLimit and keeps its text.
  std::optional<std::chrono::steady_clock::time_point> time_limit;
};

enum class FinishReason : uint32_t {
  kEndOfText = 1,  // the model's end token
  kStopString,
  kStopToken,
  kMaxTokens,
  kContextLimit,
  kTimeLimit,
  kCancelled,
  kDraining,
  kError,
};
std::string_view FinishReasonName(FinishReason reason);  // "end_of_text", "stop_string", ...

// The accounts of one stream.
struct GenerationAccounts {
  uint32_t prompt_tokens = 0;
  uint32_t generated_tokens = 0;
  double queue_seconds = 0;
  double prefill_seconds = 0;
  double first_token_seconds = 0;  // submission to first token
  double decode_seconds = 0;       // first token to last
  double stall_seconds = 0;        // waiting for flash while decoding
  uint64_t prefill_flash_bytes = 0;
  uint64_t decode_flash_bytes = 0;
  uint64_t flash_reads = 0;
  uint64_t hit_units = 0;  // while decoding
  uint64_t miss_units = 0;
  double density = 0;  // used, mean over decoded tokens
  double gamma = 1;    // the same; 1 where masks do not look at the cache
  // Of a steered stream: the positions used, and what the profile foretells for the mix of them.
  struct Ladder {
    uint32_t most_accurate = 0, fastest = 0;
    double predicted_perplexity_increase = 0;  // a share
  };
  std::optional<Ladder> ladder;
  uint64_t seed = 0;
};

struct GenerationResult {
  FinishReason reason = FinishReason::kError;
  absl::Status status;      // not OK only for kError (and kCancelled)
  std::string stop_string;  // for kStopString
  TokenId stop_token = -1;  // for kStopToken and kEndOfText
  GenerationAccounts accounts;
};

// Receives one stream. Called from the decode thread, one call at a time, never after OnDone. Must
// not block: hand the data on.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  // Text that became complete and the ids behind it; either may be empty. Text is valid UTF-8.
  virtual void OnTokens(std::string_view text, std::span<const TokenId> ids) = 0;
  virtual void OnDone(const GenerationResult& result) = 0;
};

// Counters and gauges of the engine for metrics; cumulative since start.
struct EngineStats {
  bool attached = false;
  bool stalled = false;  // attached to a store that makes no progress
  uint64_t stalls = 0;   // how often that has begun
  bool draining = false;
  uint64_t reattached = 0;
  uint32_t running = 0;
  uint32_t waiting = 0;
  uint64_t prompt_tokens = 0;
  uint64_t generated_tokens = 0;
  uint64_t kv_tokens_used = 0;
  uint64_t kv_tokens_capacity = 0;
  double stall_seconds_prefill = 0;
  double stall_seconds_decode = 0;
  SteeringStats steering;
};

// Receives one call per event for histograms; called from the decode thread, must not block.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  virtual void OnFirstToken(double seconds_since_submit) = 0;
  virtual void OnTokenGap(double seconds) = 0;  // between tokens of one stream
  virtual void OnDecodedToken(uint64_t flash_bytes, double input_density,
                              double hidden_density) = 0;
  virtual void OnFinished(const GenerationResult& result) = 0;  // after the sink's OnDone
};

// What clients may know of the model.
struct ModelInfo {
  std::string name;
  std::string architecture;
  std::string unit_encoding;  // "q8"
  std::string pack_uuid;
  uint32_t layer_count = 0, hidden_size = 0, intermediate_size = 0;
  uint32_t query_heads = 0, kv_heads = 0, head_size = 0;
  uint32_t vocab_size = 0;  // token ids are below; the embedding may have more rows
  uint32_t trained_context_tokens = 0;
  uint64_t static_bytes = 0, streamed_bytes = 0;
  std::string chat_template;
  std::vector<std::string> adapters;  // "adapter.gguf x 0.5"
  uint64_t adapter_bytes = 0;         // in the engine's memory
};

struct EngineOptions {
  std::string store_socket;
  std::vector<LoraSource> adapters;  // used beside the weights; read at every attach
  uint32_t context_tokens = 0;       // per request; 0: the model's trained context, at most 4096
  uint32_t max_running = 4;
  uint32_t max_waiting = 64;
  uint64_t kv_tokens = 0;  // KV capacity over all requests; 0: what the store's budget
                           // reserves for it, at least one context
  bool kv_half = true;     // f16; f32 for oracles
  // Prompt tokens that are computed at once: weights are streamed and decoded once per chunk, and
  // other requests wait for its end.
  uint32_t prefill_chunk_tokens = 256;
  Precision precision = Precision::kFast;
  uint32_t threads = 0;  // 0: one per core
  bool overlap = true;   // add resident columns while missing ones are in flight
  PruningBounds pruning;
  SteeringOptions steering;
  std::chrono::milliseconds attach_timeout{0};  // Create() waits this long for the store; 0: it
                                                // returns at once and attaches in the background
  // Without a sign of life from the store or its drive for stall_time, the engine is not ready
  // until there is one; after stall_limit, requests end with UNAVAILABLE.
  std::chrono::nanoseconds stall_time = std::chrono::seconds(5);
  std::chrono::nanoseconds stall_limit = std::chrono::seconds(60);
};

class Engine {
 public:
  // `observer` may be null; not owned, must outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options,
                                                        EngineObserver* observer);
  // Ends every request with kCancelled and joins the decode thread.
  virtual ~Engine() = default;

  // Errors: INVALID_ARGUMENT (field and range named), OUT_OF_RANGE (prompt + 1 exceeds the context;
  // the limits are named), RESOURCE_EXHAUSTED (queue full), UNAVAILABLE (no store, or draining).
  // The sink is held until OnDone. Returns an id for Cancel().
  virtual absl::StatusOr<uint64_t> Submit(GenerationRequest request,
                                          std::shared_ptr<GenerationSink> sink) = 0;

  // Ends the request with kCancelled within one token step, or while that waits for the store; its
  // leases and KV are free then.
  // Unknown or finished ids are ignored.
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
