#include "measure/layer_sensitivity.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/status_macros.h"
#include "engine/single_sequence.h"

namespace tidegate {
namespace {

constexpr double kDensities[] = {0.8, 0.6, 0.4};

// In place: the logarithm of the softmax.
void LogSoftmax(std::span<float> logits) {
  const float top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit} - top);
  const auto shift = static_cast<float>(top + std::log(sum));
  for (float& logit : logits) logit -= shift;
}

// sum p log(p / q) of two LogSoftmax() results.
double Divergence(std::span<const float> p, std::span<const float> q) {
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += std::exp(double{p[i]}) * (double{p[i]} - q[i]);
  return sum;
}

// While it lives, dense passes leave out all but the largest inputs of one layer's units.
class PrunedLayer {
 public:
  PrunedLayer(Decoder& decoder, const ModelConfig& config, uint32_t pruned, double density)
      : decoder_(decoder),
        units_{config.hidden_size, config.intermediate_size},
        kept_(KeptAt(density, units_[0], units_[1])) {
    decoder.set_on_inputs([this, pruned](uint32_t layer, UnitKind kind, float* x, uint32_t tokens) {
      if (layer != pruned) return;
      const uint32_t units = units_[static_cast<uint32_t>(kind)];
      const uint32_t kept = kind == UnitKind::kInput ? kept_.input : kept_.hidden;
      for (uint32_t t = 0; t < tokens; ++t) Mask({x + size_t{t} * units, units}, kept);
    });
  }
  PrunedLayer(const PrunedLayer&) = delete;
  ~PrunedLayer() { decoder_.set_on_inputs(nullptr); }

 private:
  void Mask(std::span<float> x, uint32_t kept) {
    masked_.assign(x.size(), 0.0f);
    for (const uint32_t unit : selector_.Select(x, {.kept = kept}, {}, {}, 1)) {
      masked_[unit] = x[unit];
    }
    std::copy(masked_.begin(), masked_.end(), x.begin());
  }

  Decoder& decoder_;
  const uint32_t units_[kUnitKinds];
  const KeptCounts kept_;
  MaskSelector selector_;
  std::vector<float> masked_;
};

class Chunk {
 public:
  Chunk(LocalModel& local, const EvalTask& task, uint64_t index)
      : local_(local),
        task_(task),
        tokens_(task.tokens.subspan(index * task.chunk, task.chunk)),
        vocab_(local.model().config.embedding_rows) {}

  absl::Status RunDense() {
    dense_.resize(size_t{task_.chunk} * vocab_);
    return Run([&](uint32_t position, std::span<float> logits) {
      LogSoftmax(logits);
      std::copy(logits.begin(), logits.end(), dense_.begin() + size_t{position} * vocab_);
    });
  }

  // Over all tokens of the chunk, against RunDense().
  absl::StatusOr<double> SumDivergence() {
    double sum = 0;
    RETURN_IF_ERROR(Run([&](uint32_t position, std::span<float> logits) {
      LogSoftmax(logits);
      sum += Divergence(std::span(dense_).subspan(size_t{position} * vocab_, vocab_), logits);
    }));
    return sum;
  }

 private:
  absl::Status Run(const OnPosition& on_position) {
    KvPool pool = KvPool::ForTokens(local_.model().config, task_.kv_type, task_.chunk);
    KvCache kv(&pool, task_.chunk);
    PassAccounts accounts;
    return AppendPromptInChunks(local_.decoder(), kv, tokens_, local_.chunk_tokens(),
                                task_.precision, {}, accounts, on_position);
  }

  LocalModel& local_;
  const EvalTask& task_;
  const std::span<const TokenId> tokens_;
  const size_t vocab_;
  std::vector<float> dense_;  // [chunk, vocab]
};

}  // namespace

uint64_t LayerTokens(const ModelConfig& config, const EvalTask& task) {
  return task.chunks * task.chunk * (1 + uint64_t{config.layer_count} * std::size(kDensities));
}

absl::StatusOr<std::vector<LayerCost>> MeasureLayers(
    LocalModel& local, const EvalTask& task,
    const std::function<absl::Status(uint64_t)>& on_tokens) {
  const ModelConfig& config = local.model().config;
  std::vector<std::vector<std::pair<double, double>>> costs(config.layer_count);
  for (auto& layer : costs) {
    for (const double density : kDensities) layer.emplace_back(density, 0.0);
  }
  const auto all = static_cast<double>(task.chunks * task.chunk);
  uint64_t done = 0;
  for (uint64_t c = 0; c < task.chunks; ++c) {
    Chunk chunk(local, task, c);
    RETURN_IF_ERROR(chunk.RunDense());
    RETURN_IF_ERROR(on_tokens(done += task.chunk));
    for (uint32_t layer = 0; layer < config.layer_count; ++layer) {
      for (auto& [density, cost] : costs[layer]) {
        const PrunedLayer pruned(local.decoder(), config, layer, density);
        ASSIGN_OR_RETURN(const double sum, chunk.SumDivergence());
        cost += sum / all;
        RETURN_IF_ERROR(on_tokens(done += task.chunk));
      }
    }
  }
  std::vector<LayerCost> fitted;
  for (const auto& layer : costs) fitted.push_back(FitLayerCost(layer));
  return fitted;
}

}  // namespace tidegate
