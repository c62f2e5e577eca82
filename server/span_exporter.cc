#include "server/span_exporter.h"

#include <unistd.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/build_info_values.h"
#include "base/listen_address.h"
#include "base/log_burst.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "grpcpp/grpcpp.h"
#include "opentelemetry/proto/collector/trace/v1/trace_service.grpc.pb.h"
#include "server/trace_context.h"

namespace tidegate {
namespace {

namespace collector = opentelemetry::proto::collector::trace::v1;

constexpr size_t kBatch = 256;  // requests; four spans of half a KiB each
constexpr int kMaxReconnectDelayMs = 5000;

uint64_t RandomWord() {
  thread_local std::mt19937_64 random(std::random_device{}());
  return random();
}

// Never all zero, which would be no id.
std::string RandomId(size_t bytes) {
  std::string id;
  while (id.size() < bytes) {
    const uint64_t word = RandomWord() | 1;
    for (size_t i = 0; i < 8; ++i) id += static_cast<char>(word >> (8 * i));
  }
  return id;
}

std::shared_ptr<grpc::Channel> CollectorChannel(const std::string& endpoint) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxReconnectDelayMs);
  return grpc::CreateCustomChannel(endpoint, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

struct SpanExporter::Collector {
  explicit Collector(const std::string& endpoint)
      : stub(collector::TraceService::NewStub(CollectorChannel(endpoint))) {}

  const std::unique_ptr<collector::TraceService::Stub> stub;
  const std::string instance = absl::StrCat(absl::Hex(RandomWord(), absl::kZeroPad16));
  LogBurst log;
};

absl::StatusOr<std::unique_ptr<SpanExporter>> SpanExporter::Start(
    const SpanExporterOptions& options, std::shared_ptr<SpanStats> stats) {
  RETURN_IF_ERROR(Annotate(ParseServerAddress(options.endpoint).status(), "--otlp-endpoint"));
  return std::unique_ptr<SpanExporter>(new SpanExporter(options, std::move(stats)));
}

SpanExporter::SpanExporter(const SpanExporterOptions& options, std::shared_ptr<SpanStats> stats)
    : options_(options),
      stats_(std::move(stats)),
      collector_(std::make_unique<Collector>(options.endpoint)),
      thread_([this] { Run(); }) {}

SpanExporter::~SpanExporter() {
  {
    const MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

std::optional<RequestSpan> SpanExporter::Begin(std::string_view traceparent,
                                               std::string_view tracestate) const {
  RequestSpan span;
  if (auto context = ParseTraceContext(traceparent, tracestate); context.has_value()) {
    if (!context->sampled) return std::nullopt;
    span.trace_id = std::move(context->trace_id);
    span.parent_id = std::move(context->parent_id);
    span.trace_state = std::move(context->state);
  } else {
    const double draw = static_cast<double>(RandomWord() >> 11) / static_cast<double>(1ull << 53);
    if (draw >= options_.sample_ratio) return std::nullopt;
    span.trace_id = RandomId(16);
  }
  span.span_id = RandomId(8);
  span.child_ids = RandomWord() | 1ull << 63;  // three numbers of which none is 0
  if (span.child_ids > ~uint64_t{0} - 3) span.child_ids -= 3;
  span.start = std::chrono::system_clock::now();
  return span;
}

void SpanExporter::End(RequestSpan span) {
  span.end = std::chrono::system_clock::now();
  const MutexLock lock(mutex_);
  if (queue_.size() >= options_.max_queued) {
    ++stats_->dropped;
    return;
  }
  queue_.push_back(std::move(span));
  if (queue_.size() == 1 || queue_.size() == kBatch) changed_.NotifyAll();
}

void SpanExporter::Run() {
  for (auto batch = NextBatch(); !batch.empty(); batch = NextBatch()) {
    if (!Export(std::move(batch))) DropQueueAtEnd();
  }
}

// A collector that does not answer shall not hold up the end of the process.
void SpanExporter::DropQueueAtEnd() {
  const MutexLock lock(mutex_);
  if (!stop_) return;
  stats_->dropped += queue_.size();
  queue_.clear();
}

std::vector<RequestSpan> SpanExporter::NextBatch() {
  const MutexLock lock(mutex_);
  while (queue_.empty() && !stop_) changed_.Wait(mutex_);
  const auto due = std::chrono::steady_clock::now() + options_.period;
  while (queue_.size() < kBatch && !stop_) {
    const auto left = due - std::chrono::steady_clock::now();
    if (left.count() <= 0) break;
    changed_.WaitFor(mutex_, left);
  }
  const auto end = queue_.begin() + static_cast<ptrdiff_t>(std::min(queue_.size(), kBatch));
  std::vector<RequestSpan> batch(std::make_move_iterator(queue_.begin()),
                                 std::make_move_iterator(end));
  queue_.erase(queue_.begin(), end);
  return batch;
}

bool SpanExporter::Export(std::vector<RequestSpan> batch) {
  collector::ExportTraceServiceRequest request;
  auto& resource_spans = *request.add_resource_spans();
  const auto set = [&](const char* key, const std::string& value) {
    auto* attribute = resource_spans.mutable_resource()->add_attributes();
    attribute->set_key(key);
    attribute->mutable_value()->set_string_value(value);
  };
  set("service.name", options_.service_name);
  set("service.version", TIDEGATE_VERSION);
  set("service.instance.id", collector_->instance);
  auto& scope_spans = *resource_spans.add_scope_spans();
  scope_spans.mutable_scope()->set_name("tidegate-engine");
  scope_spans.mutable_scope()->set_version(TIDEGATE_VERSION);
  for (const RequestSpan& one : batch) {
    for (auto& span : ToOtlp(one)) *scope_spans.add_spans() = std::move(span);
  }
  bool last = false;
  {
    const MutexLock lock(mutex_);
    last = stop_;
  }
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       (last ? options_.last_export_timeout : options_.export_timeout));
  collector::ExportTraceServiceResponse response;
  const grpc::Status status = collector_->stub->Export(&context, request, &response);
  const int64_t refused = response.partial_success().rejected_spans();
  if (!status.ok()) {
    stats_->dropped += batch.size();
    collector_->log.Warning("traces: ", options_.endpoint,
                            " takes none: ", Printable(status.error_message()));
    return false;
  }
  stats_->exported += batch.size();
  if (refused > 0) {
    collector_->log.Warning("traces: ", options_.endpoint, " refused ", refused,
                            " spans: ", Printable(response.partial_success().error_message()));
  }
  return true;
}

}  // namespace tidegate
