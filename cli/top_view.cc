#include "cli/top_view.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/text.h"
#include "base/units.h"

namespace tidegate {
namespace {

constexpr char kNothing[] = "-";

std::string TopNumber(double value) {
  if (!std::isfinite(value)) return kNothing;
  const int decimals = value != std::floor(value) && std::fabs(value) < 100 ? 1 : 0;
  return absl::StrFormat("%.*f", decimals, value);
}

std::string TopBytes(double bytes) {
  if (!(bytes >= 0) || bytes > 1e18) return kNothing;
  return FormatBytes(static_cast<uint64_t>(bytes));
}

std::string TopShare(double part, double whole) {
  if (!(whole > 0)) return kNothing;
  return absl::StrFormat("%.1f %%", 100 * part / whole);
}

std::string TopLatency(double seconds) { return seconds < 0 ? kNothing : FormatSeconds(seconds); }

std::string TopRow(const char* name, const std::string& now, const std::string& all = "") {
  return absl::StrFormat("%-20s %14s   %14s\n", name, now, all);
}

// One program's metrics, now and before.
class Pair {
 public:
  // No `before`: the program had not been read, or has been started anew since.
  Pair(const ReadMetrics* before, const ReadMetrics& now, double seconds)
      : before_(before), now_(now), seconds_(seconds) {
    constexpr char kStart[] = "process_start_time_seconds";
    if (before != nullptr && before->Sum(kStart) != now.Sum(kStart)) before_ = nullptr;
    if (!(seconds > 0)) before_ = nullptr;
  }

  bool has_rates() const { return before_ != nullptr; }
  double All(const std::string& name, const ReadMetrics::Labels& labels = {}) const {
    return now_.Sum(name, labels);
  }
  double Grown(const std::string& name, const ReadMetrics::Labels& labels = {}) const {
    return before_ == nullptr ? 0 : now_.Sum(name, labels) - before_->Sum(name, labels);
  }
  double Rate(const std::string& name, const ReadMetrics::Labels& labels = {}) const {
    return before_ == nullptr ? NAN : Grown(name, labels) / seconds_;
  }
  double QuantileNow(const std::string& name, double share) const {
    if (before_ == nullptr) return -1;
    return HistogramQuantile(before_->Buckets(name), now_.Buckets(name), share);
  }
  double QuantileOfAll(const std::string& name, double share) const {
    return HistogramQuantile({}, now_.Buckets(name), share);
  }

 private:
  const ReadMetrics* before_;
  const ReadMetrics& now_;
  const double seconds_;
};

std::string TopLatencies(const Pair& engine, const char* title, const char* name) {
  std::string rows;
  for (const auto& [label, share] : {std::pair("p50", 0.5), std::pair("p95", 0.95)}) {
    rows +=
        TopRow(absl::StrCat(title, " ", label).c_str(), TopLatency(engine.QuantileNow(name, share)),
               TopLatency(engine.QuantileOfAll(name, share)));
  }
  return rows;
}

std::string EngineRows(const Pair& engine) {
  const auto of = [](const char* key, const char* value) {
    return ReadMetrics::Labels{{key, value}};
  };
  constexpr char kTokens[] = "tidegate_generation_tokens_total";
  constexpr char kPrompt[] = "tidegate_prompt_tokens_total";
  constexpr char kStall[] = "tidegate_flash_stall_seconds_total";
  constexpr char kPerToken[] = "tidegate_flash_bytes_per_token";
  const double decode_s = engine.All("tidegate_request_decode_seconds_sum") +
                          engine.All("tidegate_request_prefill_seconds_sum");
  const auto mean = [&](double sum, double count) {
    return count > 0 ? TopBytes(sum / count) : kNothing;
  };
  const std::string sum = absl::StrCat(kPerToken, "_sum"),
                    count = absl::StrCat(kPerToken, "_count");
  const double used = engine.All("tidegate_kv_cache_tokens", of("state", "used"));
  const double capacity = engine.All("tidegate_kv_cache_tokens", of("state", "capacity"));
  return absl::StrCat(
      TopRow("tokens/s", TopNumber(engine.Rate(kTokens)), TopNumber(engine.All(kTokens))),
      TopRow("prompt tokens/s", TopNumber(engine.Rate(kPrompt)), TopNumber(engine.All(kPrompt))),
      TopRow("streams running", TopNumber(engine.All("tidegate_requests_running"))),
      TopRow("requests waiting", TopNumber(engine.All("tidegate_requests_waiting"))),
      TopLatencies(engine, "first token", "tidegate_time_to_first_token_seconds"),
      TopLatencies(engine, "next token", "tidegate_inter_token_latency_seconds"),
      TopRow("flash per token", mean(engine.Grown(sum), engine.Grown(count)),
             mean(engine.All(sum), engine.All(count))),
      TopRow("waits for flash", engine.has_rates() ? TopShare(engine.Rate(kStall), 1) : kNothing,
             TopShare(std::min(engine.All(kStall), decode_s), decode_s)),
      TopRow("KV cache", TopShare(used, capacity),
             absl::StrCat(TopNumber(used), " of ", TopNumber(capacity))));
}

std::string StoreRows(const Pair& store) {
  constexpr char kHits[] = "tidegate_neuron_cache_hits_total";
  constexpr char kMisses[] = "tidegate_neuron_cache_misses_total";
  constexpr char kRead[] = "tidegate_flash_read_bytes_total";
  const ReadMetrics::Labels select = {{"lease", "select"}};
  const double hits = store.Grown(kHits, select), all_hits = store.All(kHits, select);
  const double slots_used = store.All("tidegate_neuron_cache_bytes", {{"state", "used"}});
  const double slots = store.All("tidegate_neuron_cache_bytes", {{"state", "capacity"}});
  const double rate = store.Rate(kRead);
  std::string rows =
      absl::StrCat(TopRow("cache hit rate", TopShare(hits, hits + store.Grown(kMisses, select)),
                          TopShare(all_hits, all_hits + store.All(kMisses, select))),
                   TopRow("flash read",
                          std::isfinite(rate) ? absl::StrFormat("%.1f MB/s", rate / 1e6) : kNothing,
                          TopBytes(store.All(kRead))),
                   TopRow("reads in flight", TopNumber(store.All("tidegate_flash_inflight_reads"))),
                   TopRow("memory budget", TopBytes(store.All("tidegate_memory_budget_bytes"))),
                   TopRow("  cache in use", TopShare(slots_used, slots), TopBytes(slots)));
  for (const char* part : {"static", "staging", "engine_reserve"}) {
    rows += TopRow(absl::StrCat("  ", part).c_str(), "",
                   TopBytes(store.All("tidegate_memory_budget_bytes", {{"part", part}})));
  }
  return rows;
}

std::string TopTitle(const TopReading& now) {
  std::string model, state;
  if (now.engine) {
    model = now.engine->LabelOf("tidegate_model_info", "model");
    state = now.engine->LabelOf("tidegate_state", "state");
  }
  if (model.empty() && now.store) model = now.store->LabelOf("tidegate_pack_info", "model");
  return absl::StrCat("tidegate top", model.empty() ? "" : "   ", Printable(model),
                      state.empty() ? "" : "   ", Printable(state), "\n");
}

}  // namespace

std::string TopTable(const TopReading* before, const TopReading& now, size_t columns) {
  const double seconds = before == nullptr ? 0 : now.time_s - before->time_s;
  const auto earlier = [&](std::optional<ReadMetrics> TopReading::*program) -> const ReadMetrics* {
    return before == nullptr || !(before->*program) ? nullptr : &*(before->*program);
  };
  std::string table = absl::StrCat(TopTitle(now), TopRow("", "now", "in all"));
  if (now.engine) {
    table += EngineRows(Pair(earlier(&TopReading::engine), *now.engine, seconds));
  } else {
    absl::StrAppend(&table, "engine: ", now.engine_problem, "\n");
  }
  if (now.store) {
    table += StoreRows(Pair(earlier(&TopReading::store), *now.store, seconds));
  } else {
    absl::StrAppend(&table, "store: ", now.store_problem, "\n");
  }
  std::string fitting;
  for (const absl::string_view line : absl::StrSplit(table, '\n', absl::SkipEmpty())) {
    std::string_view shown = CutAtCharacter({line.data(), line.size()}, columns);
    while (!shown.empty() && shown.back() == ' ') shown.remove_suffix(1);
    fitting += shown;
    fitting += '\n';
  }
  return fitting;
}

}  // namespace tidegate
