// One request while it runs: its KV cache, sampler, text and accounts. Steps of bounded work: a
// piece of the prompt, or one token. Owned by the decode thread.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/decoder.h"
#include "engine/engine.h"
#include "engine/steering.h"
#include "engine/stop_matcher.h"

namespace tidegate {

class Sequence {
 public:
  using Clock = std::chrono::steady_clock;

  // decoder, tokenizer and observer (may be null) outlive the sequence. `capacity_tokens` is
  // reserved; context_tokens: see KvCache. precision: of requests that are not reproducible; those
  // are exact. steering: of requests that leave pruning to the server; null: the request's own
  // parameters hold.
  Sequence(GenerationRequest request, std::shared_ptr<GenerationSink> sink,
           Clock::time_point submitted, const Model& model, Decoder* decoder,
           std::shared_ptr<const Tokenizer> tokenizer, uint32_t capacity_tokens,
           uint32_t context_tokens, bool half_kv, Precision precision, const Steering* steering,
           EngineObserver* observer);

  // Does the next piece of work. Returns true while there is more, false when the stream has ended.
  // After an error, the stream waits for End().
  absl::StatusOr<bool> Advance();

  // Ends the stream early: tells the sink, with what has been produced so far.
  void End(FinishReason reason, const absl::Status& status);

  uint32_t capacity_tokens() const { return kv_.capacity(); }
  uint32_t kv_tokens() const { return kv_.size(); }
  bool steered() const { return steering_ != nullptr; }
  bool TimeIsUp() const;
  bool prefilling() const { return prompt_done_ < request_.prompt.size(); }
  const GenerationAccounts& accounts() const { return accounts_; }
  double prefill_stall_seconds() const { return prefill_.times.seconds(Stage::kStalls); }

 private:
  absl::Status Prefill();
  absl::Status Step();
  void Emit(TokenId token);
  std::span<float> DrawableLogits();  // of ids that the tokenizer has, unused tokens banned
  bool TakeToken();                   // samples, emits, checks every stop; false at the end
  std::optional<PruneStep> NextStep() const;
  std::optional<PruneStep> SteeredStep() const;
  void CountStep(const PassAccounts& before, const std::optional<PruneStep>& step);
  void CountPruning(double density, double gamma);
  void Finish(FinishReason reason, const absl::Status& status);

  GenerationRequest request_;
  const Precision precision_;
  std::shared_ptr<GenerationSink> sink_;
  const Clock::time_point submitted_;
  const Clock::time_point admitted_;
  const ModelConfig config_;
  Decoder* const decoder_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  EngineObserver* const observer_;
  const Steering* const steering_;  // null: not steered
  KvCache kv_;
  Sampler sampler_;
  StreamingDetokenizer detokenizer_;
  StopMatcher stops_;
  const DensitySplit split_;
  std::vector<float> logits_;
  size_t prompt_done_ = 0;
  TokenId last_token_ = -1;
  uint32_t steps_ = 0;  // decode steps done: the generated index of the token being processed
  Clock::time_point first_token_, last_token_time_;
  PassAccounts prefill_, decode_;
  double density_sum_ = 0, gamma_sum_ = 0;
  double log_increase_sum_ = 0;  // of steered steps, log(1 + predicted increase)
  GenerationAccounts accounts_;
  std::vector<TokenId> held_ids_;  // ids whose text is still held back
};

}  // namespace tidegate
