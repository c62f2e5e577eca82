#include "server/metrics_vllm.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tidegate {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

// Ours -> theirs.
const std::map<std::string, std::string>& VllmNames() {
  static const auto& names = *new std::map<std::string, std::string>{
      {"tidegate_requests_running", "vllm:num_requests_running"},
      {"tidegate_requests_waiting", "vllm:num_requests_waiting"},
      {"tidegate_kv_cache_usage_ratio", "vllm:kv_cache_usage_perc"},
      {"tidegate_prefix_cache_lookup_tokens_total", "vllm:prefix_cache_queries_total"},
      {"tidegate_prefix_cache_hit_tokens_total", "vllm:prefix_cache_hits_total"},
      {"tidegate_preemptions_total", "vllm:num_preemptions_total"},
      {"tidegate_prompt_tokens_total", "vllm:prompt_tokens_total"},
      {"tidegate_generation_tokens_total", "vllm:generation_tokens_total"},
      {"tidegate_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"},
      {"tidegate_inter_token_latency_seconds", "vllm:inter_token_latency_seconds"},
      {"tidegate_time_per_output_token_seconds", "vllm:request_time_per_output_token_seconds"},
      {"tidegate_request_duration_seconds", "vllm:e2e_request_latency_seconds"},
      {"tidegate_request_queue_seconds", "vllm:request_queue_time_seconds"},
      {"tidegate_request_prefill_seconds", "vllm:request_prefill_time_seconds"},
      {"tidegate_request_decode_seconds", "vllm:request_decode_time_seconds"},
  };
  return names;
}

// Our finish_reason -> their finished_reason; "" where nothing was generated.
std::string FinishedReason(const std::string& reason) {
  static const auto& reasons = *new std::map<std::string, std::string>{
      {"end_of_text", "stop"},  {"stop_string", "stop"},     {"stop_token", "stop"},
      {"max_tokens", "length"}, {"context_limit", "length"}, {"time_limit", "length"},
      {"cancelled", "abort"},   {"draining", "abort"},       {"error", "error"},
  };
  const auto found = reasons.find(reason);
  return found == reasons.end() ? "" : found->second;
}

// The labels that vLLM gives every series.
std::vector<ClientMetric::Label> VllmLabels(const VllmFacts& facts) {
  return {{"engine", "0"}, {"model_name", facts.model}};
}

MetricFamily Renamed(const MetricFamily& family, const std::string& name, const VllmFacts& facts) {
  MetricFamily renamed = family;
  renamed.name = name;
  for (ClientMetric& metric : renamed.metric) metric.label = VllmLabels(facts);
  return renamed;
}

// Requests by why they ended, whatever method and code they had.
MetricFamily RequestSuccess(const MetricFamily& requests, const VllmFacts& facts) {
  std::map<std::string, double> counts;
  for (const ClientMetric& metric : requests.metric) {
    for (const ClientMetric::Label& label : metric.label) {
      if (label.name != "finish_reason") continue;
      if (const std::string reason = FinishedReason(label.value); !reason.empty()) {
        counts[reason] += metric.counter.value;
      }
    }
  }
  MetricFamily family{"vllm:request_success_total",
                      "Requests that generated text, by why they ended.",
                      MetricType::Counter,
                      {}};
  for (const auto& [reason, count] : counts) {
    ClientMetric& metric = family.metric.emplace_back();
    metric.label = VllmLabels(facts);
    metric.label.push_back({"finished_reason", reason});
    metric.counter.value = count;
  }
  return family;
}

// Adapters take part in every request, so all of them run. The value is a time, by which gateways
// know which series is the latest.
MetricFamily LoraRequests(const VllmFacts& facts) {
  std::vector<std::string> names;
  for (const std::string& adapter : facts.adapters) {
    names.push_back(adapter.substr(0, adapter.rfind(" x ")));
  }
  MetricFamily family{
      "vllm:lora_requests_info", "Adapters in use; the value is the time.", MetricType::Gauge, {}};
  ClientMetric& metric = family.metric.emplace_back();
  metric.label = {{"max_lora", absl::StrCat(names.size())},
                  {"running_lora_adapters", absl::StrJoin(names, ",")},
                  {"waiting_lora_adapters", ""}};
  metric.gauge.value = facts.now_seconds;
  return family;
}

}  // namespace

std::vector<MetricFamily> VllmFamilies(const std::vector<MetricFamily>& families,
                                       const VllmFacts& facts) {
  std::vector<MetricFamily> named;
  for (const MetricFamily& family : families) {
    if (const auto name = VllmNames().find(family.name); name != VllmNames().end()) {
      named.push_back(Renamed(family, name->second, facts));
    } else if (family.name == "tidegate_requests_total") {
      named.push_back(RequestSuccess(family, facts));
    }
  }
  if (!facts.adapters.empty()) named.push_back(LoraRequests(facts));
  return named;
}

}  // namespace tidegate
