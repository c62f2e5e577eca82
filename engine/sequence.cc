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

}  // namespace

Sequence::Sequence(GenerationRequest request, std::shared_ptr<GenerationSink> sink,
                   Clock::time_point submitted, const Model& model, Decoder* decoder,
                   std::shared_ptr<const Tokenizer> tokenizer, uint32_t capacity_tokens,
                   uint32_t context_tokens, bool half_kv, Precision precision,
                   const Steering* steering, EngineObserver* observer)
    : request_(std::move(request)),
      precision_(request_.pruning.reproducible ? Precision::kExact : precision),
      sink_(std::move(sink)),
      submitted_(submitted),
      admitted_(Clock::now()),
      config_(model.config),
      decoder_(decoder),
      tokenizer_(std::move(tokenizer)),
      observer_(observer),
      steering_(request_.pruning.FollowsLadder() ? steering : nullptr),
      kv_(model.config, capacity_tokens, half_kv, context_tokens),
      sampler_(request_.sampling, request_.prompt),
      // The text goes on where the prompt ended: its leading space is real.
      detokenizer_(*tokenizer_, /*continues_text=*/true),
      stops_(request_.stop.strings, request_.stop.include_stop_string),
      split_(SplitDensity(request_.pruning.density)),
      logits_(model.config.embedding_rows) {
  accounts_.prompt_tokens = static_cast<uint32_t>(request_.prompt.size());
  accounts_.queue_seconds = Seconds(admitted_ - submitted_);
  accounts_.seed = sampler_.seed();
}

bool Sequence::TimeIsUp() const {
  return request_.time_limit.has_value() && Clock::now() >= *request_.time_limit;
}

absl::StatusOr<bool> Sequence::Advance() {
  if (TimeIsUp()) {
    Finish(FinishReason::kTimeLimit, absl::OkStatus());
    return false;
  }
  const absl::Status done = prefilling() ? Prefill() : Step();
  if (!done.ok()) return PassError(done);
  if (prefilling()) return true;
  return TakeToken();
}

absl::Status Sequence::Prefill() {
  const size_t count = decoder_->PieceTokens(request_.prompt.size() - prompt_done_);
  const std::span<const TokenId> piece(request_.prompt.data() + prompt_done_, count);
  const bool last = prompt_done_ + count == request_.prompt.size();
  RETURN_IF_ERROR(decoder_->Prefill(
      kv_, piece, precision_, last ? std::span<float>(logits_) : std::span<float>(), prefill_));
  prompt_done_ += count;
  accounts_.prefill_seconds = Seconds(Clock::now() - admitted_);
  accounts_.prefill_flash_bytes = prefill_.flash_bytes;
  accounts_.flash_reads = prefill_.flash_reads;
  return absl::OkStatus();
}

std::optional<PruneStep> Sequence::SteeredStep() const {
  const LadderPoint& point = steering_->point();
  if (point.dense()) return std::nullopt;
  return point.Step(request_.pruning.warm_up ? WarmUpGamma(point.gamma, steps_) : point.gamma);
}

std::optional<PruneStep> Sequence::NextStep() const {
  if (steered()) return SteeredStep();
  const PruningParams& p = request_.pruning;
  if (p.mode == DecodeMode::kDense) return std::nullopt;
  double gamma = 1;
  if (p.mode == DecodeMode::kDipCa && !p.reproducible) {
    gamma = p.warm_up ? WarmUpGamma(p.gamma, steps_) : p.gamma;
  }
  return PruneStep{.kept_input = KeptUnits(split_.keep_input, config_.hidden_size),
                   .kept_hidden = KeptUnits(split_.keep_hidden, config_.intermediate_size),
                   .gamma = gamma,
                   .fixed_top_n = p.fixed_top_n,
                   .protected_share = p.protected_share};
}

absl::Status Sequence::Step() {
  const std::optional<PruneStep> step = NextStep();
  const PassAccounts before = decode_;
  RETURN_IF_ERROR(
      decoder_->Step(kv_, last_token_, step ? &*step : nullptr, precision_, logits_, decode_));
  ++steps_;
  CountStep(before, step);
  return absl::OkStatus();
}

void Sequence::CountStep(const PassAccounts& before, const std::optional<PruneStep>& step) {
  double input = 1, hidden = 1;
  if (step) {
    const auto kept = step->MeanKept();
    input = kept[0] / config_.hidden_size;
    hidden = kept[1] / config_.intermediate_size;
  }
  CountPruning((2 * input + hidden) / 3, step ? step->gamma : 1);
  accounts_.decode_flash_bytes = decode_.flash_bytes;
  accounts_.flash_reads = prefill_.flash_reads + decode_.flash_reads;
  accounts_.hit_units = decode_.hit_units[0] + decode_.hit_units[1];
  accounts_.miss_units = decode_.miss_units[0] + decode_.miss_units[1];
  accounts_.stall_seconds = decode_.times.seconds(Stage::kStalls);
  if (observer_ != nullptr) {
    observer_->OnDecodedToken(decode_.flash_bytes - before.flash_bytes, input, hidden);
  }
}

void Sequence::CountPruning(double density, double gamma) {
  density_sum_ += density;
  gamma_sum_ += gamma;
  accounts_.density = density_sum_ / steps_;
  accounts_.gamma = gamma_sum_ / steps_;
  if (!steered()) return;
  // Perplexity is the exponential of a mean over tokens.
  log_increase_sum_ += std::log1p(steering_->point().perplexity_increase);
  const uint32_t position = steering_->point().index;
  if (!accounts_.ladder) accounts_.ladder = {.most_accurate = position, .fastest = position};
  GenerationAccounts::Ladder& ladder = *accounts_.ladder;
  ladder.most_accurate = std::min(ladder.most_accurate, position);
  ladder.fastest = std::max(ladder.fastest, position);
  ladder.predicted_perplexity_increase = std::expm1(log_increase_sum_ / steps_);
}

std::span<float> Sequence::DrawableLogits() {
  for (const TokenId id : tokenizer_->unused_ids()) {
    logits_[static_cast<size_t>(id)] = -std::numeric_limits<float>::infinity();
  }
  return std::span<float>(logits_).first(tokenizer_->vocab_size());
}

bool Sequence::TakeToken() {
  last_token_ = sampler_.Sample(DrawableLogits());
  const Clock::time_point now = Clock::now();
  if (accounts_.generated_tokens == 0) {
    first_token_ = now;
    accounts_.first_token_seconds = Seconds(now - submitted_);
    if (observer_ != nullptr) observer_->OnFirstToken(accounts_.first_token_seconds);
  } else if (observer_ != nullptr) {
    observer_->OnTokenGap(Seconds(now - last_token_time_));
  }
  last_token_time_ = now;
  ++accounts_.generated_tokens;
  accounts_.decode_seconds = Seconds(now - first_token_);

  const std::vector<TokenId>& stop_ids = request_.stop.token_ids;
  if (std::find(stop_ids.begin(), stop_ids.end(), last_token_) != stop_ids.end()) {
    Finish(FinishReason::kStopToken, absl::OkStatus());
    return false;
  }
  if (!request_.stop.ignore_eos && tokenizer_->IsEndOfGeneration(last_token_)) {
    Finish(FinishReason::kEndOfText, absl::OkStatus());
    return false;
  }
  Emit(last_token_);
  if (!stops_.matched().empty()) {
    Finish(FinishReason::kStopString, absl::OkStatus());
  } else if (accounts_.generated_tokens >= request_.max_tokens) {
    Finish(FinishReason::kMaxTokens, absl::OkStatus());
  } else if (accounts_.prompt_tokens + accounts_.generated_tokens >= kv_.capacity()) {
    // The last token counts too, though its keys would never be stored.
    Finish(FinishReason::kContextLimit, absl::OkStatus());
  } else {
    return true;
  }
  return false;
}

void Sequence::Emit(TokenId token) {
  held_ids_.push_back(token);
  const std::string text = stops_.Add(detokenizer_.Add(token));
  if (text.empty() && stops_.matched().empty()) return;
  sink_->OnTokens(text, held_ids_);
  held_ids_.clear();
}

void Sequence::End(FinishReason reason, const absl::Status& status) { Finish(reason, status); }

void Sequence::Finish(FinishReason reason, const absl::Status& status) {
  const std::string rest = stops_.Add(detokenizer_.Finish()) + stops_.Finish();
  if (!rest.empty() || !held_ids_.empty()) sink_->OnTokens(rest, held_ids_);
  held_ids_.clear();
  GenerationResult result;
  result.reason = reason;
  result.status = status;
  if (reason == FinishReason::kStopString) result.stop_string = stops_.matched();
  if (reason == FinishReason::kStopToken || reason == FinishReason::kEndOfText) {
    result.stop_token = last_token_;
  }
  result.accounts = accounts_;
  sink_->OnDone(result);
  if (observer_ != nullptr) observer_->OnFinished(result);
}

}  // namespace tidegate
