#include "server/engine_collector.h"

#include <chrono>
#include <iterator>
#include <utility>

#include "base/metrics_page.h"
#include "server/metrics_vllm.h"

namespace tidegate {
namespace {

double UnixSeconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

double GaugeOf(bool value) { return value ? 1 : 0; }

}  // namespace

void EngineCollector::Attach(const Engine* engine) {
  MutexLock lock(mutex_);
  if (engine_ != nullptr && engine == nullptr) {
    Refresh();
    // Nothing runs in an engine that is gone, whatever it said last.
    stats_.attached = stats_.stalled = false;
    stats_.draining = true;
    stats_.running = stats_.waiting = 0;
    stats_.kv_tokens_used = 0;
  }
  engine_ = engine;
}

std::vector<prometheus::MetricFamily> EngineCollector::Collect() const {
  MutexLock lock(mutex_);
  Refresh();
  const MetricsPage::Label model = {"model", model_info_ ? model_info_->name : ""};
  MetricsPage page({model});
  AddState(page);
  AddLoad(page);
  AddTotals(page);
  AddPruning(page);
  AddModel(page);
  std::vector<prometheus::MetricFamily> families = std::move(page).Take();
  for (prometheus::MetricFamily& family : registry_.Collect()) {
    for (prometheus::ClientMetric& metric : family.metric) {
      metric.label.insert(metric.label.begin(), model);
    }
    families.push_back(std::move(family));
  }
  if (vllm_names_) {
    const ModelInfo info = model_info_.value_or(ModelInfo());
    std::vector<prometheus::MetricFamily> named =
        VllmFamilies(families, {info.name, info.adapters, UnixSeconds()});
    std::move(named.begin(), named.end(), std::back_inserter(families));
  }
  return families;
}

void EngineCollector::Refresh() const {
  if (engine_ == nullptr) return;
  stats_ = engine_->stats();
  ready_ = engine_->ready();
  defaults_ = engine_->pruning_bounds().defaults;
  if (absl::StatusOr<ModelInfo> info = engine_->model_info(); info.ok()) {
    model_info_ = *std::move(info);
  }
}

void EngineCollector::AddState(MetricsPage& page) const {
  const bool ready = ready_ && stats_.attached && !stats_.draining;
  const bool stalled = !ready && !stats_.draining && stats_.stalled;
  const bool loading = !ready && !stats_.draining && !stalled;
  page.Gauges("tidegate_state", "1 for the state that the engine is in, 0 for the others.",
              {{{{"state", "loading"}}, GaugeOf(loading)},
               {{{"state", "ready"}}, GaugeOf(ready)},
               {{{"state", "stalled"}}, GaugeOf(stalled)},
               {{{"state", "draining"}}, GaugeOf(stats_.draining)}});
  page.Gauge("tidegate_store_attached", "1 while the engine is attached to a weight store.",
             GaugeOf(stats_.attached));
  page.Counter("tidegate_store_reattaches_total",
               "Times the engine attached again after losing its store.",
               static_cast<double>(stats_.reattached));
  page.Counter("tidegate_store_stalls_total",
               "Times the store or its drive had made no progress for --stall-time.",
               static_cast<double>(stats_.stalls));
}

void EngineCollector::AddLoad(MetricsPage& page) const {
  const double used = static_cast<double>(stats_.kv_tokens_used);
  const double capacity = static_cast<double>(stats_.kv_tokens_capacity);
  page.Gauge("tidegate_requests_running", "Requests in prefill or decode.", stats_.running);
  page.Gauge("tidegate_requests_waiting", "Requests in the queue.", stats_.waiting);
  page.Gauges("tidegate_kv_cache_tokens",
              "Token positions of the KV cache: used is a part of capacity.",
              {{{{"state", "used"}}, used}, {{{"state", "capacity"}}, capacity}});
  page.Gauge("tidegate_kv_cache_usage_ratio", "Used share of the KV cache, 0 to 1.",
             capacity > 0 ? used / capacity : 0);
}

void EngineCollector::AddTotals(MetricsPage& page) const {
  page.Counter("tidegate_prompt_tokens_total", "Prompt tokens run through the model.",
               static_cast<double>(stats_.prompt_tokens));
  page.Counter("tidegate_generation_tokens_total", "Tokens generated.",
               static_cast<double>(stats_.generated_tokens));
  page.Counter("tidegate_steps_total", "Passes of the decoder over the model's layers.",
               static_cast<double>(stats_.steps));
  page.Counters(
      "tidegate_step_rows_total",
      "Tokens computed in these passes, by form: each read of the weights serves all rows "
      "of a pass.",
      {{{{"form", "decode"}}, static_cast<double>(stats_.decode_rows)},
       {{{"form", "prompt"}}, static_cast<double>(stats_.prompt_rows)}});
  page.Counter("tidegate_dense_instead_tokens_total",
               "Tokens that asked for pruning and were computed without it, because that read "
               "nothing more beside the other streams.",
               stats_.dense_instead_tokens);
  page.Counter("tidegate_preemptions_total",
               "Times a stream gave up its KV cache to others and was computed again later.",
               static_cast<double>(stats_.preemptions));
  page.Counter("tidegate_prefix_cache_lookup_tokens_total",
               "Prompt tokens looked up in the prefix cache since the last attach.",
               static_cast<double>(stats_.prefix.lookup_tokens));
  page.Counter("tidegate_prefix_cache_hit_tokens_total",
               "Prompt tokens found there, and not computed again.",
               static_cast<double>(stats_.prefix.hit_tokens));
  page.Gauge("tidegate_prefix_cache_pages", "Pages of the KV cache that hold prompts seen before.",
             stats_.prefix.pages);
  page.Counters("tidegate_flash_stall_seconds_total",
                "Time in which computing waited for flash, by phase.",
                {{{{"phase", "prefill"}}, stats_.stall_seconds_prefill},
                 {{{"phase", "decode"}}, stats_.stall_seconds_decode}});
}

void EngineCollector::AddPruning(MetricsPage& page) const {
  const SteeringStats& s = stats_.steering;
  const bool steered = s.points > 0;
  const bool dense = defaults_.mode == DecodeMode::kDense;
  const bool cache_aware = defaults_.mode == DecodeMode::kDipCa;
  page.Gauge("tidegate_pruning_density_ratio",
             "Share of the MLP that requests use which leave it to the server.",
             steered ? s.density
             : dense ? 1
                     : defaults_.density);
  page.Gauge("tidegate_pruning_gamma_ratio",
             "Gamma of requests that leave it to the server; 1 ignores the cache.",
             steered       ? s.gamma
             : cache_aware ? defaults_.gamma
                           : 1);
  page.Gauge("tidegate_ladder_points",
             "Points of the profile that steering may use; 0: nothing is steered.", s.points);
  page.Gauge("tidegate_ladder_position", "Present point of the profile, 0 the most accurate.",
             s.position);
  page.Counter("tidegate_ladder_moves_total", "Moves from point to point since the last attach.",
               static_cast<double>(s.moves));
  page.Gauge("tidegate_predicted_perplexity_increase_ratio",
             "What the present point costs by the profile; 0.05 is 5 %.",
             s.predicted_perplexity_increase);
  page.Gauge("tidegate_target_tokens_per_second", "Wanted of each stream; 0: none.",
             s.target_tokens_per_second);
  page.Gauge("tidegate_steered_tokens_per_second",
             "Rate of each stream that steering measured last; 0: not yet.", s.tokens_per_second);
}

void EngineCollector::AddModel(MetricsPage& page) const {
  const ModelInfo info = model_info_.value_or(ModelInfo());
  page.Gauges("tidegate_model_bytes",
              "Weights of the model: always resident, or streamed from flash.",
              {{{{"part", "static"}}, static_cast<double>(info.static_bytes)},
               {{{"part", "streamed"}}, static_cast<double>(info.streamed_bytes)}});
  if (!model_info_) return;
  page.Gauges("tidegate_model_info", "Always 1; the labels describe the model being served.",
              {{{{"architecture", info.architecture},
                 {"unit_encoding", info.unit_encoding},
                 {"pack_uuid", info.pack_uuid}},
                1}});
}

}  // namespace tidegate
