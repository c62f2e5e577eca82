#include "cli/stats_table.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/text.h"
#include "base/units.h"

namespace tidegate {
namespace {

constexpr size_t kShownRowBytes = 1000;

std::string TableRow(const std::string& name, const std::string& value) {
  return absl::StrFormat("%-18s %s\n", name, Printable(value, kShownRowBytes));
}

std::string TablePercent(uint64_t part, uint64_t whole) {
  if (whole == 0) return "-";
  return absl::StrFormat("%.1f %%", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string Leases(const v1::LeaseStats& leases) {
  return absl::StrCat(leases.granted(), " leases, ", leases.hit_units(), " units hit, ",
                      leases.miss_units(), " missed, hit rate ",
                      TablePercent(leases.hit_units(), leases.hit_units() + leases.miss_units()));
}

std::string FactRows(const v1::StoreInfo& info) {
  const v1::MemorySplit& memory = info.memory();
  const v1::FlashBackend& flash = info.flash();
  return absl::StrCat(
      TableRow("model", absl::StrCat(info.model_name(), " (", info.architecture(), ", ",
                                     info.unit_encoding(), "), pack ", info.pack_uuid())),
      TableRow("budget", absl::StrCat(FormatBytes(memory.budget_bytes()), ": static ",
                                      FormatBytes(memory.static_bytes()), ", slots ",
                                      FormatBytes(memory.slot_bytes()), ", staging ",
                                      FormatBytes(memory.staging_bytes()), ", engine ",
                                      FormatBytes(memory.engine_reserve_bytes()))),
      TableRow("flash", absl::StrCat(flash.name(), flash.direct() ? ", O_DIRECT" : ", page cache",
                                     " (", flash.reason(), ")")));
}

std::string CacheRows(const v1::StoreInfo& info, const v1::CacheStats& cache) {
  return absl::StrCat(
      TableRow("cache",
               absl::StrCat(FormatBytes(cache.used_bytes()), " used of ",
                            FormatBytes(cache.capacity_bytes()), ", ",
                            TablePercent(cache.used_bytes(), info.memory().streamed_model_bytes()),
                            " of the streamed weights, policy ", info.policy())),
      TableRow("",
               absl::StrCat(cache.inserted_blocks(), " blocks inserted, ", cache.evicted_blocks(),
                            " evicted, ", cache.bypassed_blocks(), " bypassed")));
}

std::string FlashRows(const v1::FlashStats& flash) {
  const uint64_t reads = flash.reads_ok() + flash.reads_failed() + flash.reads_corrupt();
  const double mean = reads == 0 ? 0 : flash.read_seconds_sum() / static_cast<double>(reads);
  return absl::StrCat(
      TableRow("read", absl::StrCat(FormatBytes(flash.cache_read_bytes()), " for the cache, ",
                                    FormatBytes(flash.stream_read_bytes()), " in passing, ",
                                    FormatBytes(flash.static_read_bytes()), " static")),
      TableRow("", absl::StrCat(reads, " reads in ", flash.submissions(), " submissions, mean ",
                                FormatSeconds(mean), ", ", flash.in_flight(), " in flight")),
      TableRow("damaged", absl::StrCat(flash.corrupt_blocks(), " blocks, ", flash.reads_failed(),
                                       " reads failed")));
}

}  // namespace

std::string StatsTable(const v1::GetStatsResponse& response) {
  const v1::StoreStats& stats = response.stats();
  const v1::EngineStats& engines = stats.engines();
  return absl::StrCat(
      FactRows(response.info()), CacheRows(response.info(), stats.cache()),
      TableRow("decoding", Leases(stats.select())),
      TableRow("whole layers", Leases(stats.stream())), FlashRows(stats.flash()),
      TableRow("engines", absl::StrCat(engines.attached(), " attached, ", engines.attaches_total(),
                                       " so far, ", engines.attaches_refused(), " refused, ",
                                       engines.leases_dropped(), " leases dropped")));
}

}  // namespace tidegate
