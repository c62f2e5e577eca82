// Sends what traces tell of requests to a collector: OTLP over gRPC, in batches, on a thread of its
// own. Requests never wait for it: what a full queue or a collector that does not answer would hold
// up is dropped and counted.
//
// Not here: what a span says (request_span.h), TLS to the collector: it is expected on this machine
// or behind a proxy. Begin() and End() may be called by anybody and take a short lock at most.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "server/request_span.h"
#include "server/tracing_options.h"

namespace tidegate {

// Requests whose spans are gone, one way or the other (metrics_tracing.h publishes them).
struct SpanStats {
  std::atomic<uint64_t> exported = 0, dropped = 0;
};

class SpanExporter {
 public:
  // `stats` is filled. INVALID_ARGUMENT for an endpoint that is none; a collector need not be
  // there.
  static absl::StatusOr<std::unique_ptr<SpanExporter>> Start(const SpanExporterOptions& options,
                                                             std::shared_ptr<SpanStats> stats);
  // Sends what is left, within last_export_timeout.
  ~SpanExporter();
  SpanExporter(const SpanExporter&) = delete;

  // A span for a request that begins now; nothing if it is not to be traced: its caller says so, or
  // says nothing and the ratio leaves it out. The arguments are what came, checked or not.
  std::optional<RequestSpan> Begin(std::string_view traceparent, std::string_view tracestate) const;
  // It has ended, now.
  void End(RequestSpan span);

 private:
  struct Collector;

  SpanExporter(const SpanExporterOptions& options, std::shared_ptr<SpanStats> stats);
  void Run();
  // Waits for a batch; nothing: this ends.
  std::vector<RequestSpan> NextBatch();
  // False: the collector did not take it.
  bool Export(std::vector<RequestSpan> batch);
  void DropQueueAtEnd();

  const SpanExporterOptions options_;
  const std::shared_ptr<SpanStats> stats_;
  const std::unique_ptr<Collector> collector_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<RequestSpan> queue_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tidegate
