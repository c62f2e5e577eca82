#include "server/metrics.h"

#include <array>
#include <string>
#include <vector>

#include "base/error_reason.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/engine_collector.h"

namespace tidegate {
namespace {

using prometheus::Labels;

constexpr size_t kMethods = 19, kCodes = 17, kReasons = 10, kRejectReasons = 9, kCancelStages = 3,
                 kStreamCuts = 2;
constexpr std::array<const char*, kMethods> kMethodNames = {
    "Generate",         "Chat",          "Tokenize",        "Detokenize",
    "Cancel",           "GetModel",      "ListModels",      "ModelInfer",
    "ModelStreamInfer", "ServerLive",    "ServerReady",     "ModelReady",
    "ServerMetadata",   "ModelMetadata", "ModelStatistics", "RepositoryIndex",
    "ChatCompletions",  "Completions",   "Models"};
constexpr std::array<const char*, kRejectReasons> kRejectNames = {
    "queue_full",       "draining", "unavailable", "too_long", "invalid",
    "too_many_streams", "denied",   "key_rate",    "key_share"};
constexpr std::array<const char*, kStreamCuts> kStreamCutNames = {"backlog", "write_timeout"};
constexpr std::array<const char*, kCancelStages> kCancelStageNames = {"queued", "prefill",
                                                                      "decode"};

// Index into kReasons: 0 is "no finish reason", the rest are FinishReason's own values.
constexpr size_t kNoReason = 0;
static_assert(static_cast<size_t>(FinishReason::kError) + 1 == kReasons);

// The edges that vLLM publishes, so that dashboards compare; the token step goes on to 80 s because
// a token from flash may take seconds.
const std::vector<double> kFirstTokenBounds = {.001, .005, .01, .02, .04, .06, .08, .1,
                                               .25,  .5,   .75, 1,   2.5, 5,   7.5, 10,
                                               20,   40,   80,  160, 640, 2560};
const std::vector<double> kTokenGapBounds = {.001, .0025, .005, .01, .025, .05, .075, .1,
                                             .15,  .2,    .3,   .4,  .5,   .75, 1,    2.5,
                                             5,    7.5,   10,   20,  40,   80};
const std::vector<double> kRequestBounds = {.01, .05, .1,  .3,  .5,  .8,  1,    1.5,
                                            2,   2.5, 5,   10,  15,  20,  30,   40,
                                            50,  60,  120, 240, 480, 960, 1920, 7680};
const std::vector<double> kDensityBounds = {.05, .1, .15, .2, .25, .3, .35, .4, .45, .5,
                                            .55, .6, .65, .7, .75, .8, .85, .9, .95, 1};

// 64 KiB to 8 GiB, factor 2.
std::vector<double> BytesPerTokenBounds() {
  std::vector<double> bounds;
  for (int exponent = 16; exponent <= 33; ++exponent) {
    bounds.push_back(static_cast<double>(uint64_t{1} << exponent));
  }
  return bounds;
}

// Whose requests are for text.
bool Generates(RpcMethod method) {
  return method == RpcMethod::kGenerate || method == RpcMethod::kChat ||
         method == RpcMethod::kModelInfer || method == RpcMethod::kModelStreamInfer ||
         method == RpcMethod::kChatCompletions || method == RpcMethod::kCompletions;
}

// Which cells of (method, code, reason) can happen; the rest get no series.
bool IsPossible(RpcMethod method, absl::StatusCode code, size_t reason) {
  const bool is_error = reason == static_cast<size_t>(FinishReason::kError) ||
                        reason == static_cast<size_t>(FinishReason::kCancelled);
  if (!Generates(method) || reason == kNoReason) return reason == kNoReason;
  return is_error == (code != absl::StatusCode::kOk);
}

std::string ReasonLabel(size_t reason) {
  return reason == kNoReason ? "none"
                             : std::string(FinishReasonName(static_cast<FinishReason>(reason)));
}

prometheus::Histogram* AddHistogram(prometheus::Registry& registry, const std::string& name,
                                    const std::string& help, const Labels& labels,
                                    const std::vector<double>& bounds) {
  return &prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(labels, bounds);
}

RequestTotals::Span SpanOf(const prometheus::Histogram& histogram) {
  const prometheus::ClientMetric::Histogram all = histogram.Collect().histogram;
  return {all.sample_count, all.sample_sum};
}

}  // namespace

// Pointers into the collector's registry, which owns the metrics.
struct EngineMetrics::Impl {
  explicit Impl(bool vllm_names) : collector(std::make_shared<EngineCollector>(vllm_names)) {}

  const std::shared_ptr<EngineCollector> collector;
  // Null where IsPossible() says no.
  prometheus::Counter* requests[kMethods][kCodes][kReasons] = {};
  std::array<prometheus::Counter*, kRejectReasons> rejected = {};
  std::array<prometheus::Counter*, kCancelStages> cancelled = {};
  prometheus::Counter* not_finite = nullptr;
  std::array<prometheus::Counter*, kStreamCuts> streams_cut = {};
  prometheus::Gauge* open_streams = nullptr;
  prometheus::Histogram* queue_seconds = nullptr;
  prometheus::Histogram* prefill_seconds = nullptr;
  prometheus::Histogram* decode_seconds = nullptr;
  prometheus::Histogram* duration_seconds = nullptr;
  prometheus::Histogram* first_token_seconds = nullptr;
  prometheus::Histogram* token_gap_seconds = nullptr;
  prometheus::Histogram* seconds_per_token = nullptr;
  prometheus::Histogram* density_gate_up = nullptr;
  prometheus::Histogram* density_down = nullptr;
  prometheus::Histogram* flash_bytes_per_token = nullptr;

  void AddCounters(prometheus::Registry& registry);
  void AddStreams(prometheus::Registry& registry);
  void AddRequestHistograms(prometheus::Registry& registry);
  void AddTokenHistograms(prometheus::Registry& registry);
};

void EngineMetrics::Impl::AddCounters(prometheus::Registry& registry) {
  auto& requests_family = prometheus::BuildCounter()
                              .Name("tidegate_requests_total")
                              .Help("RPCs ended, by method, gRPC status code and finish reason.")
                              .Register(registry);
  for (size_t method = 0; method < kMethods; ++method) {
    for (size_t code = 0; code < kCodes; ++code) {
      const auto status_code = static_cast<absl::StatusCode>(code);
      for (size_t reason = 0; reason < kReasons; ++reason) {
        if (!IsPossible(static_cast<RpcMethod>(method), status_code, reason)) continue;
        requests[method][code][reason] =
            &requests_family.Add({{"method", kMethodNames[method]},
                                  {"code", absl::StatusCodeToString(status_code)},
                                  {"finish_reason", ReasonLabel(reason)}});
      }
    }
  }
  auto& rejected_family = prometheus::BuildCounter()
                              .Name("tidegate_requests_rejected_total")
                              .Help("Requests for text turned away before the queue, by reason.")
                              .Register(registry);
  for (size_t i = 0; i < kRejectReasons; ++i) {
    rejected[i] = &rejected_family.Add({{"reason", kRejectNames[i]}});
  }
  auto& cancelled_family =
      prometheus::BuildCounter()
          .Name("tidegate_cancellations_total")
          .Help("Requests whose client left or cancelled them, by how far they had come.")
          .Register(registry);
  for (size_t i = 0; i < kCancelStages; ++i) {
    cancelled[i] = &cancelled_family.Add({{"stage", kCancelStageNames[i]}});
  }
  not_finite = &prometheus::BuildCounter()
                    .Name("tidegate_not_finite_total")
                    .Help("Streams that ended because numbers of the model were not finite.")
                    .Register(registry)
                    .Add({});
}

void EngineMetrics::Impl::AddStreams(prometheus::Registry& registry) {
  open_streams = &prometheus::BuildGauge()
                      .Name("tidegate_open_streams")
                      .Help("Requests for text that are not over, finished but unread included.")
                      .Register(registry)
                      .Add({});
  auto& cut_family = prometheus::BuildCounter()
                         .Name("tidegate_streams_cut_total")
                         .Help("Streams that the server ended because the client does not read.")
                         .Register(registry);
  for (size_t i = 0; i < kStreamCuts; ++i) {
    streams_cut[i] = &cut_family.Add({{"reason", kStreamCutNames[i]}});
  }
}

void EngineMetrics::Impl::AddRequestHistograms(prometheus::Registry& registry) {
  queue_seconds = AddHistogram(registry, "tidegate_request_queue_seconds",
                               "Time from submission to admission.", {}, kRequestBounds);
  prefill_seconds = AddHistogram(registry, "tidegate_request_prefill_seconds", "Time in prefill.",
                                 {}, kRequestBounds);
  decode_seconds = AddHistogram(registry, "tidegate_request_decode_seconds",
                                "Time from the first token to the last.", {}, kRequestBounds);
  duration_seconds = AddHistogram(registry, "tidegate_request_duration_seconds",
                                  "Time from submission to the last token.", {}, kRequestBounds);
  seconds_per_token = AddHistogram(registry, "tidegate_time_per_output_token_seconds",
                                   "Mean token step of one request, over its tokens but the first.",
                                   {}, kTokenGapBounds);
}

void EngineMetrics::Impl::AddTokenHistograms(prometheus::Registry& registry) {
  first_token_seconds =
      AddHistogram(registry, "tidegate_time_to_first_token_seconds",
                   "Time from submission to the first token.", {}, kFirstTokenBounds);
  token_gap_seconds = AddHistogram(registry, "tidegate_inter_token_latency_seconds",
                                   "Time between two tokens of one stream.", {}, kTokenGapBounds);
  flash_bytes_per_token =
      AddHistogram(registry, "tidegate_flash_bytes_per_token",
                   "Bytes read from flash for one decoded token.", {}, BytesPerTokenBounds());
  const std::string density_help = "Share of units that a decoded token used, by matrix.";
  density_gate_up = AddHistogram(registry, "tidegate_dip_density_ratio", density_help,
                                 {{"matrix", "gate_up"}}, kDensityBounds);
  density_down = AddHistogram(registry, "tidegate_dip_density_ratio", density_help,
                              {{"matrix", "down"}}, kDensityBounds);
}

std::string_view RpcMethodName(RpcMethod method) {
  return kMethodNames[static_cast<size_t>(method)];
}

EngineMetrics::EngineMetrics(MetricsServer& server, bool vllm_names)
    : impl_(std::make_unique<Impl>(vllm_names)) {
  prometheus::Registry& registry = impl_->collector->registry();
  impl_->AddCounters(registry);
  impl_->AddStreams(registry);
  impl_->AddRequestHistograms(registry);
  impl_->AddTokenHistograms(registry);
  server.RegisterCollectable(impl_->collector);
}

EngineMetrics::~EngineMetrics() { AttachEngine(nullptr); }

void EngineMetrics::AttachEngine(const Engine* engine) { impl_->collector->Attach(engine); }

void EngineMetrics::OnRequestDone(RpcMethod method, absl::StatusCode code,
                                  std::optional<FinishReason> reason) {
  // A code that gRPC does not know counts as UNKNOWN, a reason that does not fit the code as none.
  auto code_index = static_cast<size_t>(code);
  if (code_index >= kCodes) code_index = static_cast<size_t>(absl::StatusCode::kUnknown);
  const size_t reason_index = reason ? static_cast<size_t>(*reason) : kNoReason;
  auto& row = impl_->requests[static_cast<size_t>(method)][code_index];
  prometheus::Counter* counter = reason_index < kReasons ? row[reason_index] : nullptr;
  (counter != nullptr ? counter : row[kNoReason])->Increment();
}

RequestTotals EngineMetrics::Totals() const {
  RequestTotals totals;
  for (size_t method = 0; method < kMethods; ++method) {
    if (!Generates(static_cast<RpcMethod>(method))) continue;
    for (size_t code = 0; code < kCodes; ++code) {
      uint64_t count = 0;
      for (const prometheus::Counter* counter : impl_->requests[method][code]) {
        if (counter != nullptr) count += static_cast<uint64_t>(counter->Value());
      }
      (code == static_cast<size_t>(absl::StatusCode::kOk) ? totals.succeeded : totals.failed) +=
          count;
    }
  }
  totals.queue = SpanOf(*impl_->queue_seconds);
  totals.prefill = SpanOf(*impl_->prefill_seconds);
  totals.decode = SpanOf(*impl_->decode_seconds);
  totals.duration = SpanOf(*impl_->duration_seconds);
  return totals;
}

void EngineMetrics::OnRejected(RejectReason reason) {
  impl_->rejected.at(static_cast<size_t>(reason))->Increment();
}

void EngineMetrics::OnCancelled(CancelStage stage) {
  impl_->cancelled.at(static_cast<size_t>(stage))->Increment();
}

void EngineMetrics::OnStreamOpened() { impl_->open_streams->Increment(); }
void EngineMetrics::OnStreamClosed() { impl_->open_streams->Decrement(); }

void EngineMetrics::OnStreamCut(StreamCut reason) {
  impl_->streams_cut.at(static_cast<size_t>(reason))->Increment();
}

void EngineMetrics::OnFirstToken(double seconds_since_submit) {
  impl_->first_token_seconds->Observe(seconds_since_submit);
}

void EngineMetrics::OnTokenGap(double seconds) { impl_->token_gap_seconds->Observe(seconds); }

void EngineMetrics::OnDecodedToken(uint64_t flash_bytes, double input_density,
                                   double hidden_density) {
  impl_->flash_bytes_per_token->Observe(static_cast<double>(flash_bytes));
  impl_->density_gate_up->Observe(input_density);
  impl_->density_down->Observe(hidden_density);
}

void EngineMetrics::OnFinished(const GenerationResult& result) {
  const GenerationAccounts& accounts = result.accounts;
  if (ErrorReason(result.status) == kNumbersNotFinite) impl_->not_finite->Increment();
  impl_->queue_seconds->Observe(accounts.queue_seconds);
  if (accounts.generated_tokens == 0) {
    impl_->duration_seconds->Observe(accounts.queue_seconds + accounts.prefill_seconds);
    return;
  }
  impl_->prefill_seconds->Observe(accounts.prefill_seconds);
  impl_->decode_seconds->Observe(accounts.decode_seconds);
  impl_->duration_seconds->Observe(accounts.first_token_seconds + accounts.decode_seconds);
  if (accounts.generated_tokens > 1) {
    impl_->seconds_per_token->Observe(accounts.decode_seconds /
                                      static_cast<double>(accounts.generated_tokens - 1));
  }
}

}  // namespace tidegate
