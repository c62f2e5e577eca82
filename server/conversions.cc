#include "server/conversions.h"

namespace tidegate {
namespace {

void FillFlash(const GenerationAccounts& accounts, v1::FlashAccounts& flash) {
  const uint64_t units = accounts.hit_units + accounts.miss_units;
  flash.set_decode_bytes(accounts.decode_flash_bytes);
  flash.set_prefill_bytes(accounts.prefill_flash_bytes);
  flash.set_reads(accounts.flash_reads);
  flash.set_hit_units(accounts.hit_units);
  flash.set_miss_units(accounts.miss_units);
  flash.set_density(accounts.density);
  flash.set_stall_seconds(accounts.stall_seconds);
  if (accounts.generated_tokens > 0) {
    flash.set_bytes_per_token(static_cast<double>(accounts.decode_flash_bytes) /
                              accounts.generated_tokens);
  }
  if (units > 0) {
    flash.set_hit_rate(static_cast<double>(accounts.hit_units) / static_cast<double>(units));
  }
}

void FillTimings(const GenerationAccounts& accounts, v1::Timings& timings) {
  timings.set_queue_seconds(accounts.queue_seconds);
  timings.set_prefill_seconds(accounts.prefill_seconds);
  timings.set_first_token_seconds(accounts.first_token_seconds);
  timings.set_decode_seconds(accounts.decode_seconds);
  if (accounts.generated_tokens > 1 && accounts.decode_seconds > 0) {
    timings.set_tokens_per_second((accounts.generated_tokens - 1) / accounts.decode_seconds);
  }
}

void FillPruning(const GenerationAccounts& accounts, v1::PruningAccounts& pruning) {
  pruning.set_density(accounts.density);
  pruning.set_gamma(accounts.gamma);
  pruning.set_dense_instead_tokens(accounts.dense_instead_tokens);
  if (!accounts.ladder) return;
  const GenerationAccounts::Ladder& ladder = *accounts.ladder;
  pruning.set_predicted_perplexity_increase(ladder.predicted_perplexity_increase);
  pruning.set_most_accurate_position(ladder.most_accurate);
  pruning.set_fastest_position(ladder.fastest);
}

}  // namespace

std::optional<DecodeMode> FromProto(v1::DecodeMode mode) {
  switch (mode) {
    case v1::DECODE_MODE_DENSE:
      return DecodeMode::kDense;
    case v1::DECODE_MODE_DIP:
      return DecodeMode::kDip;
    case v1::DECODE_MODE_DIP_CA:
      return DecodeMode::kDipCa;
    default:
      return std::nullopt;
  }
}

v1::DecodeMode ToProto(DecodeMode mode) {
  switch (mode) {
    case DecodeMode::kDense:
      return v1::DECODE_MODE_DENSE;
    case DecodeMode::kDip:
      return v1::DECODE_MODE_DIP;
    case DecodeMode::kDipCa:
      return v1::DECODE_MODE_DIP_CA;
  }
  return v1::DECODE_MODE_UNSPECIFIED;
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEndOfText:
      return v1::FINISH_REASON_END_OF_TEXT;
    case FinishReason::kStopString:
      return v1::FINISH_REASON_STOP_STRING;
    case FinishReason::kStopToken:
      return v1::FINISH_REASON_STOP_TOKEN;
    case FinishReason::kMaxTokens:
      return v1::FINISH_REASON_MAX_TOKENS;
    case FinishReason::kContextLimit:
      return v1::FINISH_REASON_CONTEXT_LIMIT;
    case FinishReason::kTimeLimit:
      return v1::FINISH_REASON_TIME_LIMIT;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kDraining:
      return v1::FINISH_REASON_DRAINING;
    case FinishReason::kError:
      return v1::FINISH_REASON_ERROR;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

v1::Finished ToProto(const GenerationResult& result) {
  const GenerationAccounts& accounts = result.accounts;
  v1::Finished finished;
  finished.set_finish_reason(ToProto(result.reason));
  if (result.reason == FinishReason::kStopString) finished.set_stop_string(result.stop_string);
  if (result.stop_token >= 0) finished.set_stop_token(static_cast<uint32_t>(result.stop_token));
  finished.set_seed(accounts.seed);
  v1::Usage& usage = *finished.mutable_usage();
  usage.set_prompt_tokens(accounts.prompt_tokens);
  usage.set_generated_tokens(accounts.generated_tokens);
  usage.set_total_tokens(accounts.prompt_tokens + accounts.generated_tokens);
  usage.set_cached_prompt_tokens(accounts.cached_prompt_tokens);
  FillTimings(accounts, *finished.mutable_timings());
  FillFlash(accounts, *finished.mutable_flash());
  FillPruning(accounts, *finished.mutable_pruning());
  return finished;
}

v1::TokenLogprobs ToProto(const TokenLogprobs& logprobs) {
  v1::TokenLogprobs proto;
  proto.set_logprob(logprobs.logprob);
  for (const TopLogprob& one : logprobs.top) {
    v1::TopLogprob& top = *proto.add_top();
    top.set_token_id(static_cast<uint32_t>(one.id));
    top.set_logprob(one.logprob);
  }
  return proto;
}

v1::PromptProgress ToProto(const PromptProgress& progress) {
  v1::PromptProgress proto;
  proto.set_processed_tokens(progress.processed);
  proto.set_total_tokens(progress.total);
  proto.set_cached_tokens(progress.cached);
  return proto;
}

v1::PruningBounds ToProto(const PruningBounds& bounds) {
  v1::PruningBounds proto;
  v1::Pruning& defaults = *proto.mutable_defaults();
  defaults.set_mode(ToProto(bounds.defaults.mode));
  defaults.set_density(bounds.defaults.density);
  defaults.set_gamma(bounds.defaults.gamma);
  defaults.set_fixed_top_n(bounds.defaults.fixed_top_n);
  defaults.set_protected_share(bounds.defaults.protected_share);
  defaults.set_warm_up(bounds.defaults.warm_up);
  defaults.set_reproducible(bounds.defaults.reproducible);
  proto.set_density_min(bounds.density_min);
  proto.set_density_max(bounds.density_max);
  proto.set_gamma_min(bounds.gamma_min);
  proto.set_gamma_max(bounds.gamma_max);
  return proto;
}

v1::Model ToProto(const ModelInfo& info, const std::vector<std::string>& aliases,
                  uint32_t context_tokens, const PruningBounds& bounds) {
  v1::Model model;
  model.set_name(info.name);
  model.mutable_aliases()->Assign(aliases.begin(), aliases.end());
  model.set_architecture(info.architecture);
  model.set_pack_uuid(info.pack_uuid);
  model.set_unit_encoding(info.unit_encoding);
  model.set_kv_encoding(info.kv_encoding);
  model.set_layer_count(info.layer_count);
  model.set_hidden_size(info.hidden_size);
  model.set_intermediate_size(info.intermediate_size);
  model.set_query_heads(info.query_heads);
  model.set_kv_heads(info.kv_heads);
  model.set_head_size(info.head_size);
  model.set_vocab_size(info.vocab_size);
  model.set_trained_context_tokens(info.trained_context_tokens);
  model.set_context_tokens(context_tokens);
  model.set_static_bytes(info.static_bytes);
  model.set_streamed_bytes(info.streamed_bytes);
  model.set_chat_template(info.chat_template);
  model.mutable_adapters()->Assign(info.adapters.begin(), info.adapters.end());
  *model.mutable_pruning() = ToProto(bounds);
  return model;
}

v1::Started MakeStarted(const std::string& request_id, const std::string& model,
                        const GenerationRequest& request, const SteeringStats& steering) {
  const PruningParams& pruning = request.pruning;
  const bool cache_aware = pruning.mode == DecodeMode::kDipCa && !pruning.reproducible;
  v1::Started started;
  started.set_request_id(request_id);
  started.set_model(model);
  started.set_prompt_tokens(static_cast<uint32_t>(request.prompt.size()));
  started.set_mode(ToProto(pruning.mode));
  started.set_density(pruning.mode == DecodeMode::kDense ? 1.0f : pruning.density);
  started.set_gamma(cache_aware ? pruning.gamma : 1.0f);
  if (steering.points > 0 && pruning.FollowsLadder()) {
    started.set_density(static_cast<float>(steering.density));
    started.set_gamma(static_cast<float>(steering.gamma));
  }
  return started;
}

}  // namespace tidegate
