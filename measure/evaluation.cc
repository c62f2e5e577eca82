#include "measure/evaluation.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "measure/baseline_masks.h"
#include "measure/text_score.h"

namespace tidegate {
namespace {

using OnTokens = std::function<absl::Status(uint64_t)>;

// One decoder, one way to prune.
class Scorer {
 public:
  Scorer(LocalModel& local, const EvalTask& task, const RowPruning* step)
      : local_(local), task_(task), step_(step) {}

  absl::Status ScoreText(const OnTokens& on_tokens) {
    const uint64_t abreast = step_ == nullptr ? 1 : task_.streams;
    const uint64_t pages = abreast * KvPool::PagesFor(task_.chunk);
    KvPool pool = KvPool::ForTokens(local_.model().config, task_.kv_type, pages * kKvPageTokens);
    for (uint64_t c = 0; c < task_.chunks; c += abreast) {
      const uint64_t count = std::min(abreast, task_.chunks - c);
      std::vector<KvCache> kvs;
      std::vector<std::span<const TokenId>> inputs, targets;
      for (uint64_t i = c; i < c + count; ++i) {
        const auto all = task_.tokens.subspan(i * task_.chunk, size_t{task_.chunk} + 1);
        inputs.push_back(all.first(task_.chunk));
        targets.push_back(all.last(task_.chunk));
        kvs.emplace_back(&pool, task_.chunk);
      }
      if (count == 1) {
        RETURN_IF_ERROR(Add(kvs[0], inputs[0], targets[0], text_));
      } else {
        RETURN_IF_ERROR(ScoreTogether(local_, kvs, inputs, targets, step_, task_.precision, text_));
      }
      RETURN_IF_ERROR(on_tokens((c + count) * task_.chunk));
    }
    return absl::OkStatus();
  }

  // Whether the likeliest choice is the right one: by its sum, and by its sum per byte.
  absl::StatusOr<std::pair<bool, bool>> Answer(const ChoiceQuestion& question) {
    KvPool pool = KvPool::ForTokens(local_.model().config, task_.kv_type, question.tokens());
    KvCache kv(&pool, question.tokens());
    const std::span<const TokenId> context(question.context);
    Score silent;
    RETURN_IF_ERROR(Add(kv, context.first(context.size() - 1), {}, silent));
    const uint32_t begin = kv.size();
    size_t best = 0, best_per_byte = 0;
    std::vector<double> sums, per_byte;
    for (size_t i = 0; i < question.choices.size(); ++i) {
      const std::vector<TokenId>& choice = question.choices[i];
      std::vector<TokenId> inputs = {context.back()};
      inputs.insert(inputs.end(), choice.begin(), choice.end() - 1);
      kv.set_size(begin);
      Score score;
      RETURN_IF_ERROR(Add(kv, inputs, choice, score));
      sums.push_back(score.nll);
      per_byte.push_back(score.nll / static_cast<double>(question.choice_bytes[i]));
      if (sums[i] < sums[best]) best = i;
      if (per_byte[i] < per_byte[best_per_byte]) best_per_byte = i;
    }
    return std::pair(best == question.answer, best_per_byte == question.answer);
  }

  const Score& text() const { return text_; }

 private:
  absl::Status Add(KvCache& kv, std::span<const TokenId> inputs, std::span<const TokenId> targets,
                   Score& score) {
    return ScoreTokens(local_, kv, inputs, targets, step_, task_.precision, score);
  }

  LocalModel& local_;
  const EvalTask& task_;
  const RowPruning* const step_;
  Score text_;
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

absl::Status FindThresholds(LocalModel& local, const EvalTask& task, BaselineMask& mask) {
  const size_t units = local.model().config.intermediate_size;
  const GateHook hook(local.decoder(), [&](uint32_t layer, uint32_t tokens, float* gate, float*) {
    mask.Observe(layer, {gate, tokens * units});
  });
  RETURN_IF_ERROR(
      Scorer(local, task, nullptr).ScoreText([](uint64_t) { return absl::OkStatus(); }));
  mask.SetThresholds();
  return absl::OkStatus();
}

// Experts that a token uses; 1 where there is one plain MLP.
uint32_t ExpertsInUse(const ModelConfig& config) {
  return config.expert_count == 0 ? 1 : config.experts_used + config.shared_experts;
}

constexpr double kWeightShares[] = {2.0 / 3, 1.0 / 3};  // of an MLP, by kind of unit

// Shares of the weights that a token uses and misses, from the units.
void SumShares(const LocalModel& local, EvalResult& result) {
  const ModelConfig& config = local.model().config;
  const double counts[] = {double(config.hidden_size), double(config.intermediate_size)};
  const double all = double(config.layer_count) * config.expert_slots();
  result.density = result.flash_share = 0;
  for (uint32_t kind = 0; kind < kUnitKinds; ++kind) {
    result.density += kWeightShares[kind] * result.kept_units[kind] / counts[kind];
    result.flash_share += kWeightShares[kind] * result.missed_units[kind] / (counts[kind] * all);
  }
}

// Of masks: what the store counted.
void CountUnits(const LocalModel& local, const EvalTask& task, const PassAccounts& accounts,
                const RowPruning& step, EvalResult& result) {
  const auto tokens = static_cast<double>(result.tokens);
  const auto kept = step.MeanKept();
  std::copy(kept.begin(), kept.end(), result.kept_units);
  for (uint32_t kind = 0; kind < kUnitKinds; ++kind) {
    result.hit_units[kind] = static_cast<double>(accounts.hit_units[kind]) / tokens;
    result.missed_units[kind] = static_cast<double>(accounts.miss_units[kind]) / tokens;
  }
  SumShares(local, result);
  // Whole blocks are read, once for all streams that want them. Blocks of one unit are eval's own
  // way to pack: padded to sectors, which says nothing of a model's own pack.
  const PackGeometry& geometry = local.client().geometry();
  if (task.streams == 1 && geometry.kinds[0].units_per_block == 1 &&
      geometry.kinds[1].units_per_block == 1) {
    result.flash_bytes = result.missed_units[0] * geometry.kinds[0].unit_bytes +
                         result.missed_units[1] * geometry.kinds[1].unit_bytes;
    return;
  }
  result.flash_bytes = static_cast<double>(accounts.flash_bytes) / tokens;
  result.flash_share =
      result.flash_bytes / static_cast<double>(local.store().info().streamed_model_bytes);
}

// A dense or a baseline's pass reads whole matrices for many tokens at once; what a token alone
// would read, with a fixed share of the units in memory, is known.
void CountFixed(const LocalModel& local, const BaselineMask* mask, EvalResult& result) {
  const ModelConfig& config = local.model().config;
  const double cached = result.point.cache_fraction;
  const double mlps = double(config.layer_count) * ExpertsInUse(config);
  result.kept_units[0] = config.hidden_size;
  result.kept_units[1] = mask == nullptr ? config.intermediate_size : mask->kept_per_token();
  for (uint32_t kind = 0; kind < kUnitKinds; ++kind) {
    result.hit_units[kind] = cached * mlps * result.kept_units[kind];
    result.missed_units[kind] = (1 - cached) * mlps * result.kept_units[kind];
  }
  SumShares(local, result);
  if (mask != nullptr) {
    result.flash_share *= mask->density() / result.density;  // gate and up also leave W_up out
    result.density = mask->density();
  }
  result.flash_bytes =
      result.flash_share * static_cast<double>(local.store().info().streamed_model_bytes);
}

}  // namespace

uint32_t ChoiceQuestion::tokens() const {
  size_t longest = 0;
  for (const auto& choice : choices) longest = std::max(longest, choice.size());
  return static_cast<uint32_t>(context.size() + longest);
}

uint64_t EvalTask::all_tokens() const {
  uint64_t sum = chunks * chunk;
  for (const ChoiceQuestion& question : questions) sum += question.tokens();
  return sum;
}

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
                                    const RowPruning* step, const OnTokens& on_tokens) {
  EvalResult result;
  result.point = point;
  result.tokens = task.chunks * task.chunk;
  const BaselineMethod* baseline = FindBaselineMethod(point.method);
  std::optional<BaselineMask> mask;
  std::optional<GateHook> hook;
  if (baseline != nullptr) {
    RETURN_IF_ERROR(BaselineMask::CheckDensity(*baseline, point.density));
    mask.emplace(*baseline, point.density, local.model().config);
    if (mask->needs_thresholds()) RETURN_IF_ERROR(FindThresholds(local, task, *mask));
    const size_t units = local.model().config.intermediate_size;
    hook.emplace(local.decoder(),
                 [&mask, units](uint32_t layer, uint32_t tokens, float* gate, float* up) {
                   mask->Apply(layer, {gate, tokens * units}, {up, tokens * units});
                 });
  }
  Scorer scorer(local, task, step);
  RETURN_IF_ERROR(scorer.ScoreText(on_tokens));
  result.nll = scorer.text().nll / static_cast<double>(result.tokens);
  if (step != nullptr) {
    CountUnits(local, task, scorer.text().accounts, *step, result);
  } else {
    CountFixed(local, mask ? &*mask : nullptr, result);
  }
  if (task.questions.empty()) return result;
  size_t right = 0, right_per_byte = 0;
  uint64_t done = result.tokens;
  for (const ChoiceQuestion& question : task.questions) {
    ASSIGN_OR_RETURN(const auto answer, scorer.Answer(question));
    right += answer.first;
    right_per_byte += answer.second;
    done += question.tokens();
    RETURN_IF_ERROR(on_tokens(done));
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
  double mlp = 0;
  for (const KindGeometry& kind : geometry.kinds) {
    mlp += double(kind.unit_count) * kind.unit_bytes * config.layer_count;
  }
  // Of the weights in question, a mixture uses those of a few experts.
  const double in_use = double(ExpertsInUse(config)) / config.expert_slots();
  const double cached = result.point.cache_fraction;
  const auto first = static_cast<double>(local.store().info().static_bytes +
                                         task.chunk * KvPool::BytesPerToken(config, task.kv_type));
  const auto seconds = [&](double used, double missed) {
    return (first + std::max(0.0, used - missed)) / device.dram_bytes_per_second +
           missed / device.flash_bytes_per_second;
  };
  const double pruned = seconds(result.density * in_use * mlp, result.flash_share * mlp);
  const double streaming = seconds(in_use * mlp, (1 - cached) * in_use * mlp);
  result.memory_bytes = static_cast<uint64_t>(first + cached * mlp);
  result.modelled_tokens_per_second = 1 / pruned;
  result.times_streaming = streaming / pruned;
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
