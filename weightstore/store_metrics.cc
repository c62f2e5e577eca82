#include "weightstore/store_metrics.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <string>
#include <utility>

#include "base/metrics_page.h"

namespace tidegate {
namespace {

double Value(const StoreStats::Counter& counter) {
  return static_cast<double>(counter.load(std::memory_order_relaxed));
}

double OldestReadSeconds(const StoreStats& stats) {
  const auto began = static_cast<int64_t>(stats.flash_oldest_read.load(std::memory_order_relaxed));
  if (began == 0) return 0;
  const std::chrono::nanoseconds out =
      std::chrono::steady_clock::now().time_since_epoch() - std::chrono::nanoseconds(began);
  return std::max(0.0, std::chrono::duration<double>(out).count());
}

template <size_t kBounds>
void AddHistogram(MetricsPage& page, const std::string& name, const std::string& help,
                  const AtomicHistogram<kBounds>& histogram) {
  std::array<uint64_t, kBounds + 1> counts;
  for (size_t i = 0; i <= kBounds; ++i) counts[i] = histogram.count(i);
  page.Histogram(name, help, histogram.bounds(), counts, histogram.sum());
}

void AddFlash(MetricsPage& page, const StoreStats& stats) {
  page.Counters("tidegate_flash_read_bytes_total", "Bytes read from flash, by purpose.",
                {{{{"purpose", "cache"}}, Value(stats.flash_read_bytes[0])},
                 {{{"purpose", "stream"}}, Value(stats.flash_read_bytes[1])},
                 {{{"purpose", "static"}}, Value(stats.flash_read_bytes[2])}});
  page.Counters("tidegate_flash_reads_total", "Reads from flash, by result.",
                {{{{"result", "ok"}}, Value(stats.flash_reads_ok)},
                 {{{"result", "error"}}, Value(stats.flash_reads_failed)},
                 {{{"result", "checksum"}}, Value(stats.flash_reads_corrupt)}});
  AddHistogram(page, "tidegate_flash_read_duration_seconds",
               "Submission to completion of one read.", stats.read_seconds);
  AddHistogram(page, "tidegate_flash_read_size_bytes", "Size of one read.", stats.read_bytes);
  page.Gauge("tidegate_flash_inflight_reads", "Reads handed to the device and not completed.",
             Value(stats.flash_in_flight));
  page.Gauge("tidegate_flash_oldest_read_seconds",
             "How long the oldest of them has been out; 0 without any.", OldestReadSeconds(stats));
  page.Counter("tidegate_flash_stalls_total",
               "Times that a read had been out for so long that the drive hangs.",
               Value(stats.flash_stalls));
  page.Counter("tidegate_flash_submissions_total",
               "Times that a batch of reads was handed to the device.",
               Value(stats.flash_submissions));
  page.Counter("tidegate_flash_corrupt_blocks_total",
               "Distinct blocks whose checksum did not match.", Value(stats.corrupt_blocks));
}

void AddBackend(MetricsPage& page, const FlashInfo& flash) {
  const auto yes_no = [](bool value) { return value ? "true" : "false"; };
  page.Gauges("tidegate_flash_backend_info",
              "Always 1; the labels say how flash is read (see docs/metrics.md for fall-backs).",
              {{{{"backend", flash.backend},
                 {"direct", yes_no(flash.direct)},
                 {"fixed_buffers", yes_no(flash.fixed_buffer_bytes > 0)}},
                1}});
  page.Gauge("tidegate_flash_queue_depth_limit", "Reads that may be in flight at once.",
             flash.queue_depth);
  page.Gauge("tidegate_flash_registered_buffer_bytes",
             "Memory registered with the kernel for reads; 0 without fixed buffers.",
             static_cast<double>(flash.fixed_buffer_bytes));
}

void AddCache(MetricsPage& page, const StoreInfo& info, const StoreStats& stats) {
  page.Counters("tidegate_neuron_cache_hits_total", "Units found resident, by kind of lease.",
                {{{{"lease", "select"}}, Value(stats.hit_units[0])},
                 {{{"lease", "stream"}}, Value(stats.hit_units[1])}});
  page.Counters("tidegate_neuron_cache_misses_total", "Units not resident, by kind of lease.",
                {{{{"lease", "select"}}, Value(stats.miss_units[0])},
                 {{{"lease", "stream"}}, Value(stats.miss_units[1])}});
  page.Counter("tidegate_neuron_cache_insertions_total", "Blocks put into slots.",
               Value(stats.inserted_blocks));
  page.Counter("tidegate_neuron_cache_evictions_total", "Blocks removed from slots for others.",
               Value(stats.evicted_blocks));
  page.Counter("tidegate_neuron_cache_bypasses_total",
               "Blocks read through staging because the cache did not admit them.",
               Value(stats.bypassed_blocks));
  page.Gauges("tidegate_neuron_cache_bytes",
              "Slots of the cache: used and pinned are parts of capacity.",
              {{{{"state", "used"}}, Value(stats.used_bytes)},
               {{{"state", "pinned"}}, Value(stats.pinned_bytes)},
               {{{"state", "capacity"}}, Value(stats.capacity_bytes)}});
  const double model_bytes = Value(stats.streamed_model_bytes);
  page.Gauge("tidegate_neuron_cache_resident_ratio",
             "Share of the streamed weights that is in slots, 0 to 1.",
             model_bytes > 0 ? Value(stats.used_bytes) / model_bytes : 0);
  page.Gauges("tidegate_neuron_cache_info", "Always 1; the eviction policy in force.",
              {{{{"policy", info.policy}}, 1}});
}

void AddLeases(MetricsPage& page, const StoreStats& stats) {
  page.Counters("tidegate_leases_total", "Leases granted, by kind.",
                {{{{"lease", "select"}}, Value(stats.leases_granted[0])},
                 {{{"lease", "stream"}}, Value(stats.leases_granted[1])}});
  page.Counter("tidegate_leases_dropped_total", "Leases taken back from engines that went away.",
               Value(stats.leases_dropped));
  page.Gauge("tidegate_engines_attached", "Engines attached now.", Value(stats.engines_attached));
  page.Counters("tidegate_engine_attaches_total", "Attach attempts of engines, by result.",
                {{{{"result", "accepted"}}, Value(stats.attaches_total)},
                 {{{"result", "refused"}}, Value(stats.attaches_refused)}});
}

// The parts add up to the budget: what is not named is tables, padding and what no slot could use.
void AddBudget(MetricsPage& page, const StoreInfo& info, const StoreStats& stats) {
  const double capacity = Value(stats.capacity_bytes);
  const double fixed = static_cast<double>(info.static_bytes);
  const double staging = static_cast<double>(info.staging_bytes);
  const double reserve = static_cast<double>(info.engine_reserve_bytes);
  const double rest =
      static_cast<double>(info.memory_budget_bytes) - capacity - fixed - staging - reserve;
  page.Gauges("tidegate_memory_budget_bytes", "The memory budget, by what it is spent on.",
              {{{{"part", "static"}}, fixed},
               {{{"part", "slots"}}, capacity},
               {{{"part", "staging"}}, staging},
               {{{"part", "engine_reserve"}}, reserve},
               {{{"part", "other"}}, std::max(rest, 0.0)}});
  page.Gauge("tidegate_store_warm_blocks",
             "Blocks taken over from an earlier store's region at start.",
             static_cast<double>(info.warm_blocks));
  page.Gauges("tidegate_pack_info", "Always 1; the labels describe the pack being served.",
              {{{{"architecture", info.architecture},
                 {"unit_encoding", info.unit_encoding},
                 {"pack_uuid", info.pack_uuid}},
                1}});
}

}  // namespace

std::vector<prometheus::MetricFamily> StoreMetrics::Collect() const {
  MetricsPage page({{"model", info_.model_name}});
  AddFlash(page, stats_);
  AddBackend(page, info_.flash);
  AddCache(page, info_, stats_);
  AddLeases(page, stats_);
  AddBudget(page, info_, stats_);
  return std::move(page).Take();
}

}  // namespace tidegate
