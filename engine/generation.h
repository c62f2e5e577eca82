// A request for text, what it may ask for, and what comes back: the vocabulary that server,
// commands and the engine's own files share. Plain data; GenerationSink says who calls it from
// which thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/logprobs.h"
#include "engine/sampler.h"
#include "engine/tokenizer/tokenizer.h"

namespace tidegate {

enum class DecodeMode : uint32_t { kDense = 1, kDip = 2, kDipCa = 3 };
std::string_view DecodeModeName(DecodeMode mode);  // "dense", "dip", "dip_ca"
absl::StatusOr<DecodeMode> ParseDecodeMode(std::string_view name);

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

struct StopParams {
  std::vector<std::string> strings;  // at most 16 of at most 256 bytes
  std::vector<TokenId> token_ids;    // at most 64
  bool ignore_eos = false;
  bool include_stop_string = false;  // keep the matched string in the text
  // Before so many tokens are generated nothing above ends the stream: ids that would are not
  // drawn.
  uint32_t min_tokens = 0;  // at most max_tokens
};

struct GenerationRequest {
  std::vector<TokenId> prompt;  // [1, context); BOS included where wanted
  uint32_t max_tokens = 128;    // generated tokens
  SamplingParams sampling;
  PruningParams pruning;
  StopParams stop;
  // Whose it is; places are shared fairly between clients. In a server, the key's id, or the
  // address of the peer (LiveListener::Accepted); "": all requests without one are one client's.
  std::string client;
  // Part of the places to wait that the client's requests may take, (0, 1]; at least one place.
  double queue_share = 1;
  int32_t priority = 0;    // larger goes first; within kMaxPriority of 0
  std::string cache_salt;  // prompts are cached for requests with the same salt; kMaxCacheSaltBytes
  // Log-probabilities of its tokens, and of so many of the most likely ones at each place, are
  // wanted; at most kMaxTopLogprobs.
  std::optional<uint32_t> top_logprobs;
  // The same of the prompt's tokens but the first, each given those before it: see
  // GenerationSink::OnPromptLogprobs(). At most kMaxTopLogprobs, and PromptLogprobsOf() at most
  // kMaxPromptLogprobs. The prompt takes nothing from the prefix cache, which has no logits.
  std::optional<uint32_t> prompt_logprobs;
  bool progress = false;  // GenerationSink::OnPromptProgress() is wanted
  // Answers to the one prompt, at most kMaxChoices: see Engine::SubmitChoices().
  uint32_t choices = 1;
  // Soft limit: the stream ends with kTimeLimit and keeps its text.
  std::optional<std::chrono::steady_clock::time_point> time_limit;
};

// How many log-probabilities of its prompt it asks for.
inline uint64_t PromptLogprobsOf(const GenerationRequest& request) {
  return request.prompt_logprobs ? request.prompt.size() * (*request.prompt_logprobs + 1ull) : 0;
}

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

// The accounts of one stream, or of one choice of several. What the prompt took counts for the
// first choice alone, so that sums over choices are what the request took.
struct GenerationAccounts {
  uint32_t prompt_tokens = 0;
  uint32_t cached_prompt_tokens = 0;  // of these, found in the prefix cache
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
  // Tokens that asked for a cache-aware mask and were computed dense, because that read no more
  // beside the other streams. A token counts as the share of its layers in which it was.
  double dense_instead_tokens = 0;
  // For a steered stream: the range of ladder points that it used, by their positions in the
  // profile, and the perplexity increase that the profile predicts for this mix of points.
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

// How far the prompt of a stream is, in tokens.
struct PromptProgress {
  uint32_t processed = 0;  // 0 while it waits
  uint32_t total = 0;
  uint32_t cached = 0;  // of processed, found in the prefix cache
};

// Receives one stream, or one choice of several. Called from the decode thread, one call at a time,
// never after OnDone. Must not block: hand the data on.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  // Text that became complete and the ids behind it; either may be empty. Text is valid UTF-8.
  virtual void OnTokens(std::string_view text, std::span<const TokenId> ids) = 0;
  // Instead of OnTokens() where the request has top_logprobs: one for each id.
  virtual void OnTokensWithLogprobs(std::string_view text, std::span<const TokenId> ids,
                                    std::span<const TokenLogprobs> /*logprobs*/) {
    OnTokens(text, ids);
  }
  virtual void OnDone(const GenerationResult& result) = 0;
  // Before the first tokens, of requests that want it: when it is admitted, after parts of the
  // prompt, and about twice a second. Of several choices, the first one's.
  virtual void OnPromptProgress(const PromptProgress&) {}
  // Before the first tokens, in parts and in order, of requests that want it: of `ids`, which are
  // the prompt's from index `first` on. Of several choices, the first one's.
  virtual void OnPromptLogprobs(uint32_t /*first*/, std::span<const TokenId> /*ids*/,
                                std::span<const TokenLogprobs> /*logprobs*/) {}
};

}  // namespace tidegate
