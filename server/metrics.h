// What the engine process tells Prometheus: requests, tokens, latencies, density, bytes from flash
// per token (names and meanings: docs/metrics.md).
//
// Every series exists from the start with value 0, so that rates and alerts work from the first
// scrape; no label set is made while serving. Their label `model` is the served model's own name,
// as the store says it too, and empty until the engine has attached once; tidegate_model_info waits
// for that. Threads: all methods may be called by anybody at any time; none blocks
// on more than a short lock. The EngineObserver part is called from the engine's decode thread.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "base/metrics_server.h"
#include "engine/engine.h"
#include "server/status_mapping.h"

namespace tidegate {

enum class RpcMethod {
  // tidegate.v1
  kGenerate,
  kChat,
  kTokenize,
  kDetokenize,
  kCancel,
  kGetModel,
  kListModels,
  // inference.GRPCInferenceService
  kModelInfer,
  kModelStreamInfer,  // counts its requests
  kServerLive,
  kServerReady,
  kModelReady,
  kServerMetadata,
  kModelMetadata,
  kModelStatistics,
  kRepositoryIndex,
  // HTTP (server/openai)
  kChatCompletions,
  kCompletions,
  kModels,
};

std::string_view RpcMethodName(RpcMethod method);  // "Generate"

// Why the server ended a stream whose client does not read.
enum class StreamCut { kBacklog, kWriteTimeout };

// What requests for text came to, whatever contract they used, since the process began.
struct RequestTotals {
  struct Span {
    uint64_t count = 0;  // requests that had it
    double seconds = 0;  // of all of them together
  };
  uint64_t succeeded = 0, failed = 0;  // by the status of the call
  Span queue, prefill, decode, duration;
};

class EngineMetrics : public EngineObserver {
 public:
  // Registers everything with `server`. Once per server. `vllm_names`: see metrics_vllm.h.
  explicit EngineMetrics(MetricsServer& server, bool vllm_names = false);
  ~EngineMetrics() override;

  // From now on gauges and engine counters are read from `engine` at scrape time. nullptr detaches:
  // returns when no scrape reads the engine any more, and the last values stay. REQUIRED before the
  // engine is destroyed.
  void AttachEngine(const Engine* engine);

  // One RPC has ended with `code`. `reason` for Generate and Chat calls that reached the engine.
  void OnRequestDone(RpcMethod method, absl::StatusCode code,
                     std::optional<FinishReason> reason = std::nullopt);
  void OnRejected(RejectReason reason);
  // A Generate or Chat call has begun; gRPC has let go of one; the server ended one.
  void OnStreamOpened();
  void OnStreamClosed();
  void OnStreamCut(StreamCut reason);
  // The client went away or its deadline passed. Once per request and by the caller alone:
  // OnFinished() does not count cancellations.
  void OnCancelled(CancelStage stage);

  // The same counters and histograms that a scrape reads.
  RequestTotals Totals() const;

  // EngineObserver.
  void OnFirstToken(double seconds_since_submit) override;
  void OnTokenGap(double seconds) override;
  void OnDecodedToken(uint64_t flash_bytes, double input_density, double hidden_density) override;
  void OnFinished(const GenerationResult& result) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tidegate
