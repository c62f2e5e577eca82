#include "cli/evaluation.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/status_macros.h"
#include "engine/peer_masks.h"

namespace tidegate {
namespace {

using OnTokens = std::function<absl::Status(uint64_t)>;

// -log softmax(logits)[target].
double NegativeLogLikelihood(std::span<const float> logits, TokenId target) {
  double top = logits[0];
  for (const float logit : logits) top = std::max<double>(top, logit);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum) - logits[static_cast<size_t>(target)];
}

// One decoder, one way to prune.
class Scorer {
 public:
  Scorer(LocalModel& local, const EvalTask& task, const PruneStep* step)
      : local_(local), task_(task), step_(step) {}

  // Appends `inputs` to the sequence; the sum over those with a target of -log p(target). targets:
  // of the last inputs, may be fewer.
  absl::StatusOr<double> Score(KvCache& kv, std::span<const TokenId> inputs,
                               std::span<const TokenId> targets) {
    const size_t begin = kv.size();
    const size_t silent = inputs.size() - targets.size();
    double nll = 0;
    if (step_ == nullptr) {
      const auto add = [&](uint32_t position, std::span<float> logits) {
        const size_t i = position - begin;
        if (i >= silent) nll += NegativeLogLikelihood(logits, targets[i - silent]);
      };
      while (kv.size() - begin < inputs.size()) {
        const size_t at = kv.size() - begin;
        const size_t piece = local_.decoder().PieceTokens(inputs.size() - at);
        RETURN_IF_ERROR(local_.decoder().Prefill(kv, inputs.subspan(at, piece), task_.precision, {},
                                                 accounts_, add));
      }
      return nll;
    }
    logits_.resize(local_.model().config.vocab_size);
    for (size_t i = 0; i < inputs.size(); ++i) {
      const bool scored = i >= silent;
      RETURN_IF_ERROR(local_.decoder().Step(kv, inputs[i], step_, task_.precision,
                                            scored ? std::span<float>(logits_) : std::span<float>(),
                                            accounts_));
      if (scored) nll += NegativeLogLikelihood(logits_, targets[i - silent]);
    }
    return nll;
  }

  absl::StatusOr<double> ScoreText(const OnTokens& on_tokens) {
    double nll = 0;
    for (uint64_t c = 0; c < task_.chunks; ++c) {
      KvCache kv(local_.model().config, task_.chunk, task_.half_kv);
      ASSIGN_OR_RETURN(const double part,
                       Score(kv, task_.tokens.subspan(c * task_.chunk, task_.chunk),
                             task_.tokens.subspan(c * task_.chunk + 1, task_.chunk)));
      nll += part;
      RETURN_IF_ERROR(on_tokens((c + 1) * task_.chunk));
    }
    return nll;
  }

  // Whether the likeliest choice is the right one: by its sum, and by its sum per byte.
  absl::StatusOr<std::pair<bool, bool>> Answer(const ChoiceQuestion& question) {
    size_t longest = 0;
    for (const auto& choice : question.choices) longest = std::max(longest, choice.size());
    KvCache kv(local_.model().config, static_cast<uint32_t>(question.context.size() + longest),
               task_.half_kv);
    const std::span<const TokenId> context(question.context);
    RETURN_IF_ERROR(Score(kv, context.first(context.size() - 1), {}).status());
    const uint32_t begin = kv.size();
    size_t best = 0, best_per_byte = 0;
    std::vector<double> sums, per_byte;
    for (size_t i = 0; i < question.choices.size(); ++i) {
      const std::vector<TokenId>& choice = question.choices[i];
      std::vector<TokenId> inputs = {context.back()};
      inputs.insert(inputs.end(), choice.begin(), choice.end() - 1);
      kv.set_size(begin);
      ASSIGN_OR_RETURN(const double nll, Score(kv, inputs, choice));
      sums.push_back(nll);
      per_byte.push_back(nll / static_cast<double>(question.choice_bytes[i]));
      if (sums[i] < sums[best]) best = i;
      if (per_byte[i] < per_byte[best_per_byte]) best_per_byte = i;
    }
    return std::pair(best == question.answer, best_per_byte == question.answer);
  }

  const PassAccounts& accounts() const { return accounts_; }

 private:
  LocalModel& local_;
  const EvalTask& task_;
  const PruneStep* const step_;
  PassAccounts accounts_;
  std::vector<float> logits_;
};

// While it lives, the decoder's dense passes go through a mask.
class GateHook {
 public:
  GateHook(Decoder& decoder, Mlp::OnGate on_gate) : decoder_(decoder) {
    decoder_.set_on_gate(std::move(on_gate));
  }
  GateHook(const GateHook&) = delete;
  ~GateHook() { decoder_.set_on_gate(nullptr); }

 private:
  Decoder& decoder_;
};

absl::Status FindThresholds(LocalModel& local, const EvalTask& task, PeerMask& mask) {
  const GateHook hook(local.decoder(), [&](uint32_t layer, std::span<float> gate,
                                           std::span<float>) { mask.Observe(layer, gate); });
  RETURN_IF_ERROR(
      Scorer(local, task, nullptr).ScoreText([](uint64_t) { return absl::OkStatus(); }).status());
  mask.SetThresholds();
  return absl::OkStatus();
}

void CountUnits(const LocalModel& local, const PassAccounts& accounts, const PruneStep* step,
                EvalResult& result) {
  const ModelConfig& config = local.model().config;
  const double counts[] = {double(config.hidden_size), double(config.intermediate_size)};
  const double kept[] = {step == nullptr ? counts[0] : step->kept_input,
                         step == nullptr ? counts[1] : step->kept_hidden};
  const auto tokens = static_cast<double>(result.tokens);
  constexpr double kWeights[] = {2.0 / 3, 1.0 / 3};  // of the MLP, by kind
  result.density = 0;
  for (uint32_t kind = 0; kind < kUnitKinds; ++kind) {
    result.kept_units[kind] = kept[kind];
    result.hit_units[kind] = static_cast<double>(accounts.hit_units[kind]) / tokens;
    result.missed_units[kind] = static_cast<double>(accounts.miss_units[kind]) / tokens;
    result.density += kWeights[kind] * kept[kind] / counts[kind];
    result.flash_share +=
        kWeights[kind] * result.missed_units[kind] / (counts[kind] * config.layer_count);
  }
  result.flash_bytes = static_cast<double>(accounts.flash_bytes) / tokens;
}

// A peer's pass reads everything; what it would read with a fixed share of units in memory is
// known.
void CountMasked(const LocalModel& local, const PeerMask& mask, EvalResult& result) {
  const double cached = result.point.cache_fraction;
  const double layers = local.model().config.layer_count;
  result.density = mask.density();
  result.kept_units[1] = mask.kept_per_token();
  for (uint32_t kind = 0; kind < kUnitKinds; ++kind) {
    result.hit_units[kind] = cached * layers * result.kept_units[kind];
    result.missed_units[kind] = (1 - cached) * layers * result.kept_units[kind];
  }
  result.flash_share = (1 - cached) * result.density;
  result.flash_bytes =
      result.flash_share * static_cast<double>(local.store().info().streamed_model_bytes);
}

}  // namespace

double EvalResult::perplexity() const { return std::exp(nll); }

double EvalResult::hit_rate(UnitKind kind) const {
  const auto k = static_cast<size_t>(kind);
  const double all = hit_units[k] + missed_units[k];
  return all == 0 ? 0 : hit_units[k] / all;
}

double EvalResult::hit_rate() const {
  const double hits = hit_units[0] + hit_units[1];
  const double all = hits + missed_units[0] + missed_units[1];
  return all == 0 ? 0 : hits / all;
}

absl::StatusOr<EvalResult> Evaluate(LocalModel& local, const EvalTask& task, const EvalPoint& point,
                                    const PruneStep* step, const OnTokens& on_tokens) {
  EvalResult result;
  result.point = point;
  result.tokens = task.chunks * task.chunk;
  const PeerMethod* peer = FindPeerMethod(point.method);
  std::optional<PeerMask> mask;
  std::optional<GateHook> hook;
  if (peer != nullptr) {
    RETURN_IF_ERROR(PeerMask::CheckDensity(*peer, point.density));
    mask.emplace(*peer, point.density, local.model().config);
    if (mask->needs_thresholds()) RETURN_IF_ERROR(FindThresholds(local, task, *mask));
    hook.emplace(local.decoder(), [&](uint32_t layer, std::span<float> gate, std::span<float> up) {
      mask->Apply(layer, gate, up);
    });
  }
  Scorer scorer(local, task, step);
  ASSIGN_OR_RETURN(const double nll, scorer.ScoreText(on_tokens));
  result.nll = nll / static_cast<double>(result.tokens);
  CountUnits(local, scorer.accounts(), step, result);
  if (mask.has_value()) {
    CountMasked(local, *mask, result);
  }
  if (task.questions.empty()) return result;
  size_t right = 0, right_per_byte = 0;
  for (const ChoiceQuestion& question : task.questions) {
    ASSIGN_OR_RETURN(const auto answer, scorer.Answer(question));
    right += answer.first;
    right_per_byte += answer.second;
    RETURN_IF_ERROR(on_tokens(result.tokens));
  }
  const auto questions = static_cast<double>(task.questions.size());
  result.accuracy = static_cast<double>(right) / questions;
  result.accuracy_per_byte = static_cast<double>(right_per_byte) / questions;
  return result;
}

void ModelSpeed(const LocalModel& local, const EvalTask& task, const DeviceSpeeds& device,
                EvalResult& result) {
  const ModelConfig& config = local.model().config;
  const PackGeometry& geometry = local.client().geometry();
  const ModelBytes model = {
      .shape = {config.layer_count, {config.hidden_size, config.intermediate_size}},
      .unit_bytes = {geometry.kinds[0].unit_bytes, geometry.kinds[1].unit_bytes},
      .static_bytes = local.store().info().static_bytes,
      .kv_bytes = task.chunk * KvCache::BytesPerToken(config, task.half_kv)};
  const auto mlp = static_cast<double>(model.mlp());
  const uint64_t first = model.static_bytes + model.kv_bytes;
  result.memory_bytes = first + static_cast<uint64_t>(result.point.cache_fraction * mlp);
  const double missed = result.flash_share * mlp;
  const double used = result.density * mlp;
  const double seconds = StaticSeconds(model, result.memory_bytes, device) +
                         std::max(0.0, used - missed) / device.dram_bytes_per_second +
                         missed / device.flash_bytes_per_second;
  const double streaming = DenseSeconds(model, result.memory_bytes, device);
  result.modelled_tokens_per_second = 1 / seconds;
  result.times_streaming = streaming / seconds;
}

std::vector<size_t> ParetoFront(std::span<const EvalResult> results) {
  std::vector<size_t> order(results.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const EvalResult &x = results[a], &y = results[b];
    if (x.modelled_tokens_per_second != y.modelled_tokens_per_second) {
      return x.modelled_tokens_per_second > y.modelled_tokens_per_second;
    }
    return x.nll < y.nll;
  });
  std::vector<size_t> front;
  for (const size_t i : order) {
    if (front.empty() || results[i].nll < results[front.back()].nll) front.push_back(i);
  }
  return front;
}

std::optional<size_t> BestAt(std::span<const EvalResult> results, double times) {
  std::optional<size_t> best;
  for (size_t i = 0; i < results.size(); ++i) {
    if (results[i].times_streaming < times) continue;
    if (!best.has_value() || results[i].nll < results[*best].nll) best = i;
  }
  return best;
}

}  // namespace tidegate
