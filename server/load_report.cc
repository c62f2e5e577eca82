#include "server/load_report.h"

#include <sys/resource.h>

#include <algorithm>
#include <optional>
#include <thread>

#include "base/memory_limit.h"
#include "xds/data/orca/v3/orca_load_report.pb.h"

namespace tidegate {
namespace {

double Seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

double OwnCpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
}

// Of what the control group or the machine lets programs take.
double MemoryShare() {
  if (const std::optional<GroupMemory> group = ReadGroupMemory(); group && group->limit > 0) {
    return static_cast<double>(group->limit - std::min(group->left, group->limit)) /
           static_cast<double>(group->limit);
  }
  const uint64_t all = ReadMemoryLimit().bytes;
  const uint64_t available = std::min(ReadAvailableMemory(), all);
  return all == 0 ? 0 : static_cast<double>(all - available) / static_cast<double>(all);
}

}  // namespace

LoadReporter::LoadReporter(const Engine& engine, const EngineMetrics* metrics, bool always)
    : engine_(engine),
      metrics_(metrics),
      always_(always),
      cores_(std::max(1u, std::thread::hardware_concurrency())),
      last_(Read(Clock::now())) {
  MutexLock lock(mutex_);
  memory_share_ = MemoryShare();
}

LoadReporter::Reading LoadReporter::Read(Clock::time_point now) const {
  Reading reading{.at = now, .cpu_seconds = OwnCpuSeconds()};
  if (metrics_ != nullptr) {
    const RequestTotals totals = metrics_->Totals();
    reading.succeeded = totals.succeeded;
    reading.failed = totals.failed;
  }
  return reading;
}

void LoadReporter::Refresh(Clock::time_point now) {
  if (now < last_.at + kWindow) return;
  const Reading reading = Read(now);
  const double seconds = std::chrono::duration<double>(reading.at - last_.at).count();
  const auto rate = [seconds](uint64_t before, uint64_t after) {
    return static_cast<double>(after - before) / seconds;
  };
  cpu_share_ = (reading.cpu_seconds - last_.cpu_seconds) / seconds / cores_;
  errors_per_second_ = rate(last_.failed, reading.failed);
  requests_per_second_ = rate(last_.succeeded, reading.succeeded) + errors_per_second_;
  memory_share_ = MemoryShare();
  last_ = reading;
}

std::string LoadReporter::Report(Clock::time_point now) {
  xds::data::orca::v3::OrcaLoadReport report;
  {
    MutexLock lock(mutex_);
    Refresh(now);
    report.set_cpu_utilization(cpu_share_);
    report.set_mem_utilization(memory_share_);
    report.set_rps_fractional(requests_per_second_);
    report.set_eps(errors_per_second_);
  }
  const EngineStats stats = engine_.stats();
  auto& named = *report.mutable_named_metrics();
  named["num_requests_running"] = stats.running;
  named["num_requests_waiting"] = stats.waiting;
  const double capacity = static_cast<double>(stats.kv_tokens_capacity);
  named["max_token_capacity"] = capacity;
  named["kv_cache_utilization"] =
      capacity > 0 ? static_cast<double>(stats.kv_tokens_used) / capacity : 0;
  const double looked_up = static_cast<double>(stats.prefix.lookup_tokens);
  named["prefix_cache_hit_rate"] =
      looked_up > 0 ? static_cast<double>(stats.prefix.hit_tokens) / looked_up : 0;
  return report.SerializeAsString();
}

void LoadReporter::AddTo(grpc::ServerContextBase& context) {
  if (!always_ && !context.client_metadata().contains(kLoadReportAskKey)) return;
  context.AddTrailingMetadata(kLoadReportKey, Report(Clock::now()));
}

}  // namespace tidegate
