// How loaded this server is, as clients may have it with an answer: the message of Open Request
// Cost Aggregation (xds.data.orca.v3.OrcaLoadReport) in the trailing metadata of a call, for load
// balancers (gRPC proposal A51). It goes to those who ask, with the metadata kLoadReportAskKey, or
// to all.
//
// Thread-safe.
#pragma once

#include <chrono>
#include <string>

#include "base/mutex.h"
#include "engine/engine.h"
#include "grpcpp/grpcpp.h"
#include "server/metrics.h"

namespace tidegate {

inline constexpr char kLoadReportKey[] = "endpoint-load-metrics-bin";
inline constexpr char kLoadReportAskKey[] = "endpoint-load-metrics-format";

class LoadReporter {
 public:
  using Clock = std::chrono::steady_clock;

  // Rates and use are means over at least this.
  static constexpr std::chrono::milliseconds kWindow{1000};

  // None is owned; `metrics` may be null, then nothing is said of rates. `always`: calls need not
  // ask.
  LoadReporter(const Engine& engine, const EngineMetrics* metrics, bool always);

  // Adds the report to what goes out with the end of the call, if it wants one. Before Finish().
  void AddTo(grpc::ServerContextBase& context);

  // The message in bytes, as of `now`.
  std::string Report(Clock::time_point now);

 private:
  // Totals of the process at one time.
  struct Reading {
    Clock::time_point at;
    double cpu_seconds = 0;
    uint64_t succeeded = 0, failed = 0;
  };

  Reading Read(Clock::time_point now) const;
  void Refresh(Clock::time_point now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Engine& engine_;
  const EngineMetrics* const metrics_;
  const bool always_;
  const double cores_;
  Mutex mutex_;
  Reading last_ ABSL_GUARDED_BY(mutex_);
  double cpu_share_ ABSL_GUARDED_BY(mutex_) = 0;
  double memory_share_ ABSL_GUARDED_BY(mutex_) = 0;
  double requests_per_second_ ABSL_GUARDED_BY(mutex_) = 0;
  double errors_per_second_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tidegate
