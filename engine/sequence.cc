#include "engine/sequence.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/log_burst.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

double Seconds(Sequence::Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

// What a failed pass means to whoever asked for the tokens: that the store is gone or the weights
// are lost is theirs to know; everything else is a fault in here, whatever the code said in the
// layer that it comes from.
absl::Status PassError(const absl::Status& status) {
  static LogBurst& log = *new LogBurst();
  // Or nobody waits for it any more.
  if (absl::IsUnavailable(status) || absl::IsCancelled(status)) return status;
  log.Error("a stream has ended: ", status.ToString());
  if (absl::IsDataLoss(status) || absl::IsInternal(status)) return status;
  return absl::InternalError(status.message());
}

SamplingParams SamplingOf(const GenerationRequest& request, uint32_t choice) {
  SamplingParams sampling = request.sampling;
  if (sampling.seed) *sampling.seed += choice;
  return sampling;
}

}  // namespace

Sequence::Sequence(GenerationRequest request, std::shared_ptr<GenerationSink> sink,
                   const SequenceOptions& options, const ModelConfig* config, KvPool* pool)
    : request_(std::move(request)),
      sink_(std::move(sink)),
      options_(options),
      precision_(request_.pruning.reproducible ? Precision::kExact : options.precision),
      admitted_(Clock::now()),
      config_(*config),
      kv_(pool, options.context_tokens),
      sampler_(SamplingOf(request_, options.choice), request_.prompt),
      // The text goes on where the prompt ended: its leading space is real.
      detokenizer_(*options.tokenizer, /*continues_text=*/true),
      stops_(request_.stop.strings, request_.stop.include_stop_string),
      split_(SplitDensity(request_.pruning.density)),
      ids_(request_.prompt) {
  if (first_choice()) accounts_.prompt_tokens = static_cast<uint32_t>(request_.prompt.size());
  accounts_.queue_seconds = Seconds(admitted_ - options_.submitted);
  accounts_.seed = sampler_.seed();
}

bool Sequence::TimeIsUp() const {
  return request_.time_limit.has_value() && Clock::now() >= *request_.time_limit;
}

void Sequence::AdoptPrefix(std::span<const PageId> pages) {
  kv_.Adopt(pages);
  // After a preemption these are pages that it had computed itself, or others for it.
  if (generated() == 0 && first_choice()) accounts_.cached_prompt_tokens = kv_.size();
}

bool Sequence::Branch(const Sequence& from, std::span<float> logits) {
  if (!kv_.Branch(from.kv_).ok()) return false;
  Sample(Drawable(logits));
  return true;
}

uint32_t Sequence::RowsNext(uint32_t rows_max) const {
  const auto prompt = static_cast<uint32_t>(request_.prompt.size());
  return std::min(rows_max, kv_.size() < prompt ? prompt - kv_.size() : uncomputed());
}

BatchSequence Sequence::Wants(uint32_t rows_max) {
  const uint32_t done = kv_.size();
  rows_ = RowsNext(rows_max);
  begun_ = done;
  prune_ = reads() ? std::nullopt : NextPrune();
  sampled_.reset();
  prompt_logprobs_.clear();
  return {.kv = &kv_,
          .tokens = std::span(ids_).subspan(done, rows_),
          .form = reads() ? RowForm::kPrompt : RowForm::kDecode,
          .prune = prune_ ? &*prune_ : nullptr,
          .precision = precision_,
          .logit_rows = LogitRows(rows_)};
}

void Sequence::ReleaseUnseen() {
  const uint32_t window = config_.largest_window(), next = kv_.size() + 1;  // ends what it sees
  if (window != 0 && next > window && !reads()) kv_.Release(next - window);
}

// The last so many rows of the next: a row's logits are those of the token behind it.
uint32_t Sequence::LogitRows(uint32_t rows) const {
  const uint32_t end = kv_.size() + rows;
  if (!scores_prompt()) return end == ids_.size() ? 1 : 0;
  return end - std::min(end, std::max(kv_.size(), scored_ - 1));
}

void Sequence::TakeLogits(uint32_t row, std::span<float> logits) {
  const std::span<float> drawable = Drawable(logits);
  if (SamplesAt(row)) return Sample(drawable);
  prompt_logprobs_.push_back(
      LogprobsOf(drawable, request_.prompt[begun_ + row + 1], *request_.prompt_logprobs));
}

void Sequence::SendPromptLogprobs() {
  const size_t count = prompt_logprobs_.size();
  if (count == 0) return;
  sink_->OnPromptLogprobs(scored_, prompt().subspan(scored_, count), prompt_logprobs_);
  scored_ += static_cast<uint32_t>(count);
  prompt_logprobs_.clear();
}

void Sequence::Sample(std::span<float> drawable) {
  std::vector<float> raw;
  if (request_.top_logprobs) raw.assign(drawable.begin(), drawable.end());
  if (accounts_.generated_tokens < request_.stop.min_tokens) BanStops(drawable);
  sampled_ = sampler_.Sample(drawable);
  if (request_.top_logprobs) {
    sampled_logprobs_ = LogprobsOf(raw, *sampled_, *request_.top_logprobs);
  }
}

// What would end the stream too early.
void Sequence::BanStops(std::span<float> logits) const {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  for (const TokenId id : request_.stop.token_ids) logits[static_cast<size_t>(id)] = kNever;
  if (request_.stop.ignore_eos) return;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (options_.tokenizer->IsEndOfGeneration(static_cast<TokenId>(id))) logits[id] = kNever;
  }
}

bool Sequence::Advance(const PassAccounts& cost, double stall_seconds) {
  // Rows of tokens that had been computed before are a part of the prompt's price.
  const bool new_token =
      kv_.size() > request_.prompt.size() && kv_.size() - request_.prompt.size() > tokens_counted_;
  if (new_token && rows_ == 1) {
    CountToken(cost, stall_seconds);
  } else {
    CountPrompt(cost);
  }
  SendPromptLogprobs();
  if (!sampled_) {
    ReportProgress();
    return true;
  }
  ids_.push_back(*sampled_);
  return EmitToken();
}

void Sequence::ReportProgress() const {
  if (!request_.progress || !first_choice() || generated() > 0) return;
  sink_->OnPromptProgress({.processed = kv_.size(),
                           .total = accounts_.prompt_tokens,
                           .cached = std::min(accounts_.cached_prompt_tokens, kv_.size())});
}

void Sequence::CountPrompt(const PassAccounts& cost) {
  accounts_.prefill_seconds = Seconds(Clock::now() - admitted_);
  accounts_.prefill_flash_bytes += cost.flash_bytes;
  accounts_.flash_reads += cost.flash_reads;
}

std::optional<RowPruning> Sequence::SteeredPrune() const {
  const LadderPoint& point = options_.steering->point();
  if (point.dense()) return std::nullopt;
  RowPruning prune = point.Pruning(
      request_.pruning.warm_up ? WarmUpGamma(point.gamma, tokens_counted_) : point.gamma);
  prune.may_be_dense = true;
  prune.follows_company = options_.share_reads;
  return prune;
}

std::optional<RowPruning> Sequence::NextPrune() const {
  const PruningParams& p = request_.pruning;
  if (steered()) return SteeredPrune();
  if (p.mode == DecodeMode::kDense) return std::nullopt;
  const bool cache_aware = p.mode == DecodeMode::kDipCa && !p.reproducible && p.gamma < 1;
  double gamma = 1;
  if (cache_aware) gamma = p.warm_up ? WarmUpGamma(p.gamma, tokens_counted_) : p.gamma;
  return RowPruning{.kept_input = KeptUnits(split_.keep_input, config_.hidden_size),
                    .kept_hidden = KeptUnits(split_.keep_hidden, config_.intermediate_size),
                    .gamma = gamma,
                    .fixed_top_n = p.fixed_top_n,
                    .protected_share = p.protected_share,
                    .may_be_dense = cache_aware,
                    .follows_company = cache_aware && options_.share_reads};
}

// The densities are those that were used: company may have made the row dense.
void Sequence::CountToken(const PassAccounts& cost, double stall_seconds) {
  ++tokens_counted_;
  const uint32_t mlps =
      config_.expert_count == 0 ? 1 : config_.experts_used + config_.shared_experts;
  const auto passes = static_cast<double>(uint64_t{config_.layer_count} * mlps);
  const auto share = [&](uint32_t kind, uint32_t units) {
    return static_cast<double>(cost.hit_units[kind] + cost.miss_units[kind]) / (passes * units);
  };
  const double input = share(0, config_.hidden_size), hidden = share(1, config_.intermediate_size);
  CountPruning((2 * input + hidden) / 3);
  accounts_.decode_flash_bytes += cost.flash_bytes;
  accounts_.flash_reads += cost.flash_reads;
  accounts_.hit_units += cost.hit_units[0] + cost.hit_units[1];
  accounts_.miss_units += cost.miss_units[0] + cost.miss_units[1];
  accounts_.dense_instead_tokens += cost.dense_instead;
  accounts_.stall_seconds += stall_seconds;
  if (options_.observer != nullptr) {
    options_.observer->OnDecodedToken(cost.flash_bytes, input, hidden);
  }
}

void Sequence::CountPruning(double density) {
  density_sum_ += density;
  gamma_sum_ += prune_ ? prune_->gamma : 1;
  accounts_.density = density_sum_ / tokens_counted_;
  accounts_.gamma = gamma_sum_ / tokens_counted_;
  if (!steered()) return;
  // Perplexity is the exponential of a mean over tokens.
  log_increase_sum_ += std::log1p(options_.steering->point().perplexity_increase);
  const uint32_t position = options_.steering->point().index;
  if (!accounts_.ladder) accounts_.ladder = {.most_accurate = position, .fastest = position};
  GenerationAccounts::Ladder& ladder = *accounts_.ladder;
  ladder.most_accurate = std::min(ladder.most_accurate, position);
  ladder.fastest = std::max(ladder.fastest, position);
  ladder.predicted_perplexity_increase = std::expm1(log_increase_sum_ / tokens_counted_);
}

// The logits of ids that the tokenizer has; unused ones are banned.
std::span<float> Sequence::Drawable(std::span<float> logits) const {
  for (const TokenId id : options_.tokenizer->unused_ids()) {
    logits[static_cast<size_t>(id)] = -std::numeric_limits<float>::infinity();
  }
  return logits.first(options_.tokenizer->vocab_size());
}

std::optional<FinishReason> Sequence::StopOf(TokenId token) const {
  // Where every token is banned, one is drawn all the same.
  if (!MayStop()) return std::nullopt;
  const std::vector<TokenId>& ids = request_.stop.token_ids;
  if (std::find(ids.begin(), ids.end(), token) != ids.end()) return FinishReason::kStopToken;
  if (request_.stop.ignore_eos || !options_.tokenizer->IsEndOfGeneration(token)) {
    return std::nullopt;
  }
  return FinishReason::kEndOfText;
}

bool Sequence::EmitToken() {
  const TokenId token = ids_.back();
  const Clock::time_point now = Clock::now();
  if (accounts_.generated_tokens == 0) {
    first_token_ = now;
    accounts_.first_token_seconds = Seconds(now - options_.submitted);
    if (options_.observer != nullptr) {
      options_.observer->OnFirstToken(accounts_.first_token_seconds);
    }
  } else if (options_.observer != nullptr) {
    options_.observer->OnTokenGap(Seconds(now - last_token_time_));
  }
  last_token_time_ = now;
  ++accounts_.generated_tokens;
  accounts_.decode_seconds = Seconds(now - first_token_);

  if (const auto stop = StopOf(token); stop.has_value()) {
    Finish(*stop, absl::OkStatus());
    return false;
  }
  Emit(token);
  if (!stops_.matched().empty()) {
    Finish(FinishReason::kStopString, absl::OkStatus());
  } else if (accounts_.generated_tokens >= request_.max_tokens) {
    Finish(FinishReason::kMaxTokens, absl::OkStatus());
  } else if (ids_.size() >= kv_.context_tokens()) {
    // The last token counts too, though its keys would never be stored.
    Finish(FinishReason::kContextLimit, absl::OkStatus());
  } else {
    return true;
  }
  return false;
}

void Sequence::Fail(const absl::Status& status) { Finish(FinishReason::kError, PassError(status)); }

void Sequence::Emit(TokenId token) {
  held_ids_.push_back(token);
  if (request_.top_logprobs) held_logprobs_.push_back(std::move(sampled_logprobs_));
  std::string text = detokenizer_.Add(token);
  if (MayStop()) text = stops_.Add(text);
  if (text.empty() && stops_.matched().empty()) return;
  Send(text);
}

void Sequence::Send(std::string_view text) {
  if (request_.top_logprobs) {
    sink_->OnTokensWithLogprobs(text, held_ids_, held_logprobs_);
  } else {
    sink_->OnTokens(text, held_ids_);
  }
  held_ids_.clear();
  held_logprobs_.clear();
}

void Sequence::Finish(FinishReason reason, const absl::Status& status) {
  const std::string rest = stops_.Add(detokenizer_.Finish()) + stops_.Finish();
  if (!rest.empty() || !held_ids_.empty()) Send(rest);
  GenerationResult result;
  result.reason = reason;
  result.status = status;
  if (reason == FinishReason::kStopString) result.stop_string = stops_.matched();
  if (reason == FinishReason::kStopToken || reason == FinishReason::kEndOfText) {
    result.stop_token = ids_.back();
  }
  result.accounts = accounts_;
  sink_->OnDone(result);
  if (options_.observer != nullptr) options_.observer->OnFinished(result);
}

}  // namespace tidegate
