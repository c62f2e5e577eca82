#include "measure/calibration.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/progress.h"
#include "base/status_macros.h"
#include "base/units.h"
#include "measure/token_ids.h"

namespace tidegate {
namespace {

constexpr uint64_t kMomentBytes = kGiB;
constexpr uint64_t kStagingBytes = 16 * kMiB;  // per lease

// Units stream: a calibration reads each of them once in a chunk.
absl::StatusOr<std::unique_ptr<LocalModel>> OpenStreaming(const std::string& model,
                                                          const std::vector<LoraSource>& adapters) {
  LocalModelOptions options;
  options.model = model;
  options.units = UnitEncoding::kQ8;
  options.adapters = adapters;
  options.store.cache_fraction = 0.0;
  options.store.staging_bytes = kStagingBytes;
  options.prefill_chunk_tokens = CalibrationText::kChunkTokens;
  return LocalModel::Open(options);
}

std::vector<LayerMoments> NoMoments(const ModelConfig& config) {
  const uint32_t block =
      MomentBlock(config.layer_count, config.hidden_size, config.intermediate_size, kMomentBytes);
  return std::vector<LayerMoments>(
      config.layer_count,
      {InputMoments(config.hidden_size, block), InputMoments(config.intermediate_size, block)});
}

}  // namespace

absl::StatusOr<CalibrationText> CalibrationText::Create(std::vector<TokenId> tokens,
                                                        uint64_t tokens_max) {
  if (tokens_max > 0 && tokens.size() > tokens_max) tokens.resize(tokens_max);
  constexpr uint64_t kLeast = kPeriod * kChunkTokens + 1;
  if (tokens.size() < kLeast) {
    return absl::InvalidArgumentError(absl::StrCat("a calibration needs at least ", kLeast,
                                                   " tokens, better 16385; these are ",
                                                   tokens.size()));
  }
  CalibrationText text;
  text.tokens_ = std::move(tokens);
  return text;
}

absl::Status CalibrationText::AddScore(uint64_t chunk, LocalModel& local, Score& score) const {
  const auto all = std::span(tokens_).subspan(chunk * kChunkTokens, kChunkTokens + 1);
  KvPool pool = KvPool::ForTokens(local.model().config, KvType::kF32, kChunkTokens);
  KvCache kv(&pool, kChunkTokens);
  return ScoreTokens(local, kv, all.first(kChunkTokens), all.last(kChunkTokens), /*step=*/nullptr,
                     Precision::kExact, score);
}

absl::StatusOr<Calibration> Calibrate(const CalibrationOptions& options) {
  Calibration result;
  ASSIGN_OR_RETURN(const uint32_t experts, ExpertsOf(options.model));
  if (experts > 0) {
    return absl::InvalidArgumentError(
        "a mixture of experts would need the moments of every expert, which is not "
        "supported; pack it without");
  }
  ASSIGN_OR_RETURN(std::vector<TokenId> tokens, TokensOfText(options.text, options.model));
  auto text = CalibrationText::Create(std::move(tokens), options.tokens_max);
  if (!text.ok()) return Annotate(text.status(), options.text);
  result.text = *std::move(text);
  ASSIGN_OR_RETURN(const auto local, OpenStreaming(options.model, options.adapters));
  const ModelConfig& config = local->model().config;
  result.moments = NoMoments(config);

  const auto add = [&](uint32_t layer, UnitKind kind, const float* x, uint32_t count) {
    LayerMoments& moments = result.moments[layer];
    (kind == UnitKind::kInput ? moments.input : moments.hidden).Add(x, count);
  };
  Score learnt;
  Progress progress("calibrating", "tokens");
  for (uint64_t chunk = 0; chunk < result.text.chunks(); ++chunk) {
    const bool held_out = CalibrationText::HeldOut(chunk);
    local->decoder().set_on_inputs(held_out ? Mlp::OnInputs() : add);
    RETURN_IF_ERROR(result.text.AddScore(chunk, *local, held_out ? result.source : learnt));
    progress.Update((chunk + 1) * CalibrationText::kChunkTokens,
                    result.text.chunks() * CalibrationText::kChunkTokens);
  }
  local->decoder().set_on_inputs(nullptr);
  result.tokens = learnt.tokens;
  return result;
}

absl::StatusOr<Score> ScoreHeldOut(const CalibrationText& text, const std::string& pack) {
  ASSIGN_OR_RETURN(const auto local, OpenStreaming(pack, {}));
  Score score;
  for (uint64_t chunk = 0; chunk < text.chunks(); ++chunk) {
    if (CalibrationText::HeldOut(chunk)) RETURN_IF_ERROR(text.AddScore(chunk, *local, score));
  }
  return score;
}

}  // namespace tidegate
