#include "measure/point_meter.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/single_sequence.h"
#include "measure/token_ids.h"
#include "proto/store/v1/profile.h"

namespace tidegate {
namespace {

// Without masks all tokens read the same, but for the first, which fill the cache, and for the
// experts that each chooses in a mixture.
constexpr uint32_t kDenseTokens = 64;

store::v1::Profile HeadOf(const LocalModel& local, const PackedModel& packed,
                          std::optional<double> input_share) {
  const ModelConfig& config = local.model().config;
  const StoreInfo& info = local.store().info();
  store::v1::Profile head;
  head.set_version(kProfileVersion);
  store::v1::ProfileModel& model = *head.mutable_model();
  model.set_name(local.manifest().model_name());
  model.set_layer_count(config.layer_count);
  model.set_hidden_size(config.hidden_size);
  model.set_intermediate_size(config.intermediate_size);
  model.set_embedding_rows(config.embedding_rows);
  store::v1::ProfileConditions& conditions = *head.mutable_conditions();
  conditions.set_unit_encoding(info.unit_encoding);
  conditions.set_cache_share(static_cast<double>(info.slot_bytes) /
                             static_cast<double>(info.streamed_model_bytes));
  conditions.set_input_share(input_share.value_or(0));
  *conditions.mutable_adapters() = local.manifest().source().adapters();
  for (const LoraSource& beside : packed.adapters()) conditions.add_adapters(LoraName(beside));
  return head;
}

}  // namespace

absl::StatusOr<ProfileTasks> SplitTokens(const std::vector<TokenId>& tokens, uint32_t chunk,
                                         uint64_t search_tokens, uint64_t final_tokens) {
  constexpr uint64_t kLeastChunks = 4;
  const uint64_t chunks = tokens.empty() ? 0 : (tokens.size() - 1) / chunk;
  if (chunks < kLeastChunks) {
    return absl::InvalidArgumentError(
        absl::StrCat(tokens.size(), " tokens are too few: at least ", kLeastChunks * chunk + 1,
                     ", better many more; give a longer text or a smaller --chunk than ", chunk));
  }
  ProfileTasks tasks;
  tasks.search.chunk = tasks.final.chunk = chunk;
  tasks.search.chunks = std::min(search_tokens / chunk, chunks / 2);
  tasks.final.chunks = std::min(final_tokens / chunk, chunks - tasks.search.chunks);
  tasks.search.tokens = tokens;
  tasks.final.tokens = std::span(tokens).subspan(tasks.search.chunks * chunk);
  return tasks;
}

absl::Status CheckTasks(const ProfileTasks& tasks, const store::v1::HyperParameters& hp) {
  if (tasks.search.chunk > hp.context_length()) {
    return absl::InvalidArgumentError(absl::StrCat("--chunk ", tasks.search.chunk,
                                                   " is longer than the ", hp.context_length(),
                                                   " tokens of the model's context"));
  }
  if (hp.embedding_rows() == 0) return absl::OkStatus();  // No embedding: packing says so.
  return CheckTokenIds(tasks.search.tokens, hp.embedding_rows());
}

absl::StatusOr<PointMeter> PointMeter::Create(const LocalModelOptions& options) {
  PointMeter meter;
  meter.options_ = options;
  meter.options_.store.follow_profile = false;  // An older one's, which has no say.
  ASSIGN_OR_RETURN(PackedModel packed, PackedModel::Open(options));
  meter.packed_ = std::make_shared<const PackedModel>(std::move(packed));
  ASSIGN_OR_RETURN(const auto local, meter.Open());
  meter.head_ = HeadOf(*local, *meter.packed_, options.store.input_share);
  meter.config_ = local->model().config;
  meter.streamed_bytes_ = local->store().info().streamed_model_bytes;
  return meter;
}

void PointMeter::Plan(Progress* progress, uint64_t tokens) {
  progress_ = progress;
  planned_ = tokens;
}

void PointMeter::Show(uint64_t done) {
  if (progress_ != nullptr) progress_->Update(std::min(done, planned_), planned_);
}

void PointMeter::Skip(uint64_t tokens) { planned_ -= std::min(planned_, tokens); }

absl::StatusOr<std::unique_ptr<LocalModel>> PointMeter::Open() const {
  return LocalModel::Open(options_, *packed_);
}

absl::StatusOr<EvalResult> PointMeter::Run(const Candidate& candidate) {
  ASSIGN_OR_RETURN(const auto local, Open());
  const auto kept_at = [&](double density) {
    return KeptAt(density, config_.hidden_size, config_.intermediate_size);
  };
  std::vector<KeptCounts> layers;
  for (const double density : candidate.layer_densities) layers.push_back(kept_at(density));
  const KeptCounts kept = kept_at(candidate.density);
  const RowPruning step = {.kept_input = kept.input,
                           .kept_hidden = kept.hidden,
                           .gamma = candidate.gamma,
                           .protected_share = candidate.protected_share,
                           .layers = layers};
  const EvalPoint point = {.method = "dip_ca",
                           .density = candidate.density,
                           .gamma = candidate.gamma,
                           .cache_fraction = head_.conditions().cache_share()};
  return Evaluate(*local, *task_, point, &step, [&](uint64_t done) {
    Show(done_ + done);
    return absl::OkStatus();
  });
}

void PointMeter::UseInputShare(std::optional<double> share) {
  options_.store.input_share = share;
  head_.mutable_conditions()->set_input_share(share.value_or(0));
}

absl::Status PointMeter::Begin(const EvalTask& task) {
  task_ = &task;
  // Every unit one by one and not a dense pass, so that both sides round alike.
  ASSIGN_OR_RETURN(const EvalResult result, Run({}));
  done_ += task.all_tokens();
  dense_nll_ = result.nll;
  head_.mutable_conditions()->set_perplexity(result.perplexity());
  return absl::OkStatus();
}

absl::StatusOr<MeasuredPoint> PointMeter::Measure(const Candidate& candidate) {
  ASSIGN_OR_RETURN(const EvalResult result, Run(candidate));
  done_ += task_->all_tokens();
  return MeasuredPoint{.candidate = candidate,
                       .perplexity_increase = std::expm1(result.nll - dense_nll_),
                       .flash_bytes = result.flash_bytes,
                       .flash_share = result.flash_share,
                       .hit_rate = result.hit_rate()};
}

absl::StatusOr<MeasuredPoint> PointMeter::MeasureDense(const EvalTask& task) {
  ASSIGN_OR_RETURN(const auto local, Open());
  const uint32_t tokens = std::min(task.chunk, kDenseTokens);
  const uint32_t filling = tokens / 2;
  KvPool pool = KvPool::ForTokens(config_, task.kv_type, tokens);
  KvCache kv(&pool, tokens);
  PassAccounts first, counted;
  for (uint32_t i = 0; i < tokens; ++i) {
    RETURN_IF_ERROR(AppendToken(local->decoder(), kv, task.tokens[i], /*step=*/nullptr,
                                task.precision, {}, i < filling ? first : counted));
  }
  const auto hits = static_cast<double>(counted.hit_units[0] + counted.hit_units[1]);
  const auto misses = static_cast<double>(counted.miss_units[0] + counted.miss_units[1]);
  MeasuredPoint dense;
  dense.flash_bytes = static_cast<double>(counted.flash_bytes) / (tokens - filling);
  dense.flash_share = dense.flash_bytes / static_cast<double>(streamed_bytes_);
  dense.hit_rate = hits / (hits + misses);
  return dense;
}

store::v1::Profile PointMeter::ProfileHead() const { return head_; }

}  // namespace tidegate
