// One request while it runs: its ids, sampler, text and accounts. It says which rows it wants
// computed next and takes their logits; it knows no model, decoder or scheduler. Owned by the
// decode thread.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/batch.h"
#include "engine/engine.h"
#include "engine/sampler.h"
#include "engine/steering.h"
#include "engine/stop_matcher.h"

namespace tidegate {

// What a sequence is made of besides its request.
struct SequenceOptions {
  std::chrono::steady_clock::time_point submitted;
  std::shared_ptr<const Tokenizer> tokenizer;
  uint32_t context_tokens = 0;  // prompt and answer together, at most
  uint32_t choice = 0;          // which of the request's; the first one counts the prompt
  // For requests that are not reproducible; those are exact.
  Precision precision = Precision::kFast;
  bool share_reads = false;  // see EngineOptions
  // For requests that leave pruning to the server; null: the request's own parameters hold. Not
  // owned.
  const Steering* steering = nullptr;
  EngineObserver* observer = nullptr;  // may be null; not owned
};

class Sequence {
 public:
  using Clock = std::chrono::steady_clock;

  // config and pool outlive this and are not owned.
  Sequence(GenerationRequest request, std::shared_ptr<GenerationSink> sink,
           const SequenceOptions& options, const ModelConfig* config, KvPool* pool);

  // Begins with full pages of the prompt that are known already; the holds pass over. REQUIRES:
  // nothing is in the cache.
  void AdoptPrefix(std::span<const PageId> pages);

  // Another choice of the same request, nothing of which is computed: goes on where this one, whose
  // prompt is complete, is now, with the same logits. They may be spoilt for others. False: there
  // is no page for it; nothing has changed.
  bool Branch(const Sequence& from, std::span<float> logits);

  // Rows of the prompt, and of what is to be computed again, that come before the next token.
  uint32_t prompt_rows() const { return uncomputed() > 1 || generated() == 0 ? uncomputed() : 0; }
  bool prefilling() const { return prompt_rows() > 0; }

  // Whether the next rows are of prompt form.
  bool reads() const { return kv_.size() < request_.prompt.size(); }

  // How many rows Wants() would give: a step has those of one form.
  uint32_t RowsNext(uint32_t rows_max) const;

  // The next rows, at most `rows_max`. Valid until Advance().
  BatchSequence Wants(uint32_t rows_max);

  // Whether it samples from the logits of this one of the rows: the last one, of all ids.
  bool SamplesAt(uint32_t row) const { return begun_ + row + 1 == ids_.size(); }

  // Takes logits that it wants, of one of these rows: samples from them, or scores the prompt's
  // next token by them. May change them.
  void TakeLogits(uint32_t row, std::span<float> logits);

  // Whether tokens of the prompt wait for their log-probabilities: then it takes no prefix.
  bool scores_prompt() const {
    return request_.prompt_logprobs && first_choice() && scored_ < request_.prompt.size();
  }

  // The step with these rows, or of those that it branched from, is done: what it cost this
  // sequence, and how long all waited in it. Emits the token that was sampled, if any. False: the
  // stream has ended.
  bool Advance(const PassAccounts& cost, double stall_seconds);

  // Tells the sink how far the prompt is, if it is to know and no token has come yet.
  void ReportProgress() const;

  // Lets go of pages that no later token sees. Those of a prompt stay until it is complete: the
  // prefix cache may keep them.
  void ReleaseUnseen();

  // Its pages are gone: what was computed has to be computed again.
  void Preempt() { kv_.Truncate(0); }

  // Ends the stream early: tells the sink, with what has been produced so far.
  void End(FinishReason reason, const absl::Status& status) { Finish(reason, status); }
  // The same for a step that failed: what is not the caller's to know is an error in here.
  void Fail(const absl::Status& status);

  KvCache& kv() { return kv_; }
  const KvCache& kv() const { return kv_; }
  const GenerationRequest& request() const { return request_; }
  std::span<const TokenId> prompt() const { return request_.prompt; }
  Precision precision() const { return precision_; }
  bool steered() const { return options_.steering != nullptr; }
  bool TimeIsUp() const;
  const GenerationAccounts& accounts() const { return accounts_; }

 private:
  // Ids that are known and not yet in the cache.
  uint32_t uncomputed() const { return static_cast<uint32_t>(ids_.size()) - kv_.size(); }
  bool first_choice() const { return options_.choice == 0; }
  uint32_t generated() const { return static_cast<uint32_t>(ids_.size() - request_.prompt.size()); }
  std::optional<RowPruning> NextPrune() const;
  std::optional<RowPruning> SteeredPrune() const;
  uint32_t LogitRows(uint32_t rows) const;
  void Sample(std::span<float> drawable);
  void SendPromptLogprobs();
  std::span<float> Drawable(std::span<float> logits) const;
  void BanStops(std::span<float> logits) const;
  // Whether the latest token, or a string that begins in its text, may end the stream.
  bool MayStop() const { return accounts_.generated_tokens > request_.stop.min_tokens; }
  std::optional<FinishReason> StopOf(TokenId token) const;
  void CountPrompt(const PassAccounts& cost);
  void CountToken(const PassAccounts& cost, double stall_seconds);
  void CountPruning(double density);
  bool EmitToken();  // and checks every stop; false at the end
  void Emit(TokenId token);
  void Send(std::string_view text);  // with what is held
  void Finish(FinishReason reason, const absl::Status& status);

  GenerationRequest request_;
  std::shared_ptr<GenerationSink> sink_;
  const SequenceOptions options_;
  const Precision precision_;
  const Clock::time_point admitted_;
  const ModelConfig& config_;
  KvCache kv_;
  Sampler sampler_;
  StreamingDetokenizer detokenizer_;
  StopMatcher stops_;
  const DensitySplit split_;
  std::vector<TokenId> ids_;  // the prompt, then what was generated
  // The step that was begun by Wants().
  uint32_t rows_ = 0, begun_ = 0;  // behind so many positions
  std::optional<RowPruning> prune_;
  std::optional<TokenId> sampled_;
  TokenLogprobs sampled_logprobs_;              // if the request wants them
  std::vector<TokenLogprobs> prompt_logprobs_;  // of the prompt's tokens from scored_ on
  uint32_t scored_ = 1;          // tokens of the prompt that have been; the first has none
  uint32_t tokens_counted_ = 0;  // generated tokens whose rows have been computed
  Clock::time_point first_token_, last_token_time_;
  double density_sum_ = 0, gamma_sum_ = 0;
  double log_increase_sum_ = 0;  // of steered tokens, log(1 + predicted increase)
  GenerationAccounts accounts_;
  std::vector<TokenId> held_ids_;             // ids whose text is still held back
  std::vector<TokenLogprobs> held_logprobs_;  // of held_ids_, if the request wants them
};

}  // namespace tidegate
