#include "cli/load_report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/build_info_values.h"
#include "base/text.h"
#include "base/units.h"

namespace tidegate {
namespace {

using Json = nlohmann::ordered_json;

double PerSecond(const LoadResult& result, uint64_t count) {
  return result.seconds > 0 ? static_cast<double>(count) / result.seconds : 0;
}

uint64_t AllTokens(const LoadResult& result) { return result.prompt_tokens + result.output_tokens; }

// "16 streams" or "2.5 requests/s".
std::string PointName(const MeasuredLoad& load) {
  if (load.rate.has_value()) return absl::StrFormat("%g requests/s", *load.rate);
  return absl::StrCat(load.streams, load.streams == 1 ? " stream" : " streams");
}

// FINISH_REASON_MAX_TOKENS -> "max tokens".
std::string ReasonName(v1::FinishReason reason) {
  const std::string name = v1::FinishReason_Name(reason);
  return absl::AsciiStrToLower(absl::StrReplaceAll(name, {{"FINISH_REASON_", ""}, {"_", " "}}));
}

std::string Milliseconds(double seconds) {
  const double ms = 1e3 * seconds;
  return ms < 10 ? absl::StrFormat("%.2f", ms) : absl::StrFormat("%.1f", ms);
}

std::string Percent(double share) { return absl::StrFormat("%.1f %%", 100 * share); }

struct NamedLatency {
  const char* name;  // for people
  const char* key;   // for programs
  const LatencyHistogram* histogram;
};

std::vector<NamedLatency> Latencies(const LoadResult& result) {
  return {{"TTFT", "ttft", &result.ttft},
          {"TPOT", "tpot", &result.tpot},
          {"ITL", "itl", &result.itl},
          {"E2EL", "e2el", &result.e2el},
          {"server queue", "queue", &result.queue}};
}

std::string LatencyLines(const LoadResult& result) {
  std::string out = absl::StrFormat("%-14s%10s%10s%10s%10s%10s%10s\n", "latency, ms", "mean", "p50",
                                    "p90", "p95", "p99", "max");
  for (const NamedLatency& latency : Latencies(result)) {
    const LatencyHistogram& h = *latency.histogram;
    if (h.count() == 0) continue;
    absl::StrAppendFormat(&out, "%-14s%10s%10s%10s%10s%10s%10s\n", latency.name,
                          Milliseconds(h.mean()), Milliseconds(h.Percentile(0.5)),
                          Milliseconds(h.Percentile(0.9)), Milliseconds(h.Percentile(0.95)),
                          Milliseconds(h.Percentile(0.99)), Milliseconds(h.max()));
  }
  return out;
}

std::string CountLine(const LoadSubject& subject, const MeasuredLoad& load) {
  const LoadResult& r = load.result;
  std::string out = absl::StrFormat("%-14s%d begun, %d completed, %d refused, %d failed",
                                    "requests", r.begun, r.completed, r.refused, r.failed);
  if (r.cut_off > 0) absl::StrAppendFormat(&out, ", %d open at the end", r.cut_off);
  absl::StrAppendFormat(&out, "; at most %d open at once\n", r.most_streams);
  if (r.cut_off_waiting > 0) {
    absl::StrAppendFormat(
        &out, "%-14s%d of them had no token yet: TTFT is longer than what follows says\n", "",
        r.cut_off_waiting);
  }
  absl::StrAppendFormat(&out, "%-14s%.4g requests/s", "throughput", PerSecond(r, r.completed));
  if (subject.goals) {
    absl::StrAppendFormat(&out, " (goodput %.4g)", PerSecond(r, r.good));
  }
  absl::StrAppendFormat(&out, ", %.5g output tokens/s, %.5g tokens/s with prompts\n",
                        PerSecond(r, r.output_tokens), PerSecond(r, AllTokens(r)));
  return out;
}

// What the server says of streams that ended well.
std::string ServerLines(const LoadResult& r) {
  const ServerAccounts& server = r.server;
  if (r.completed == 0) return "";
  std::string out =
      absl::StrFormat("%-14s%s per generated token, %s for prompts in all, hit rate %s", "flash",
                      FormatBytes(static_cast<uint64_t>(server.flash_bytes_per_token())),
                      FormatBytes(server.prefill_bytes), Percent(server.hit_rate()));
  if (server.decode_seconds > 0) {
    absl::StrAppendFormat(&out, ", %s of decoding waited for it",
                          Percent(server.stall_seconds / server.decode_seconds));
  }
  absl::StrAppendFormat(&out, "\n%-14s", "ended by");
  const char* separator = "";
  for (const auto& [reason, count] : r.finish_reasons) {
    absl::StrAppend(&out, separator, ReasonName(reason), " ", count);
    separator = ", ";
  }
  return out + "\n";
}

std::string ErrorLines(const LoadResult& result) {
  std::string out;
  for (const LoadErrors& kind : result.errors) {
    absl::StrAppendFormat(&out, "%-14s%d times %s%s%s, such as\n", "error", kind.count, kind.code,
                          kind.reason.empty() ? "" : " ", kind.reason);
    absl::StrAppend(&out, "  ", absl::StrReplaceAll(kind.example, {{"\n", "\n  "}}), "\n");
  }
  return out;
}

std::string GeneratorLine(const MeasuredLoad& load) {
  if (load.result.seconds <= 0) return "";
  std::string out =
      absl::StrFormat("%-14s%.2f cores", "this program", load.cpu_seconds / load.result.seconds);
  if (load.rate.has_value()) {
    absl::StrAppend(&out, ", the latest request begun ", FormatSeconds(load.result.latest_start),
                    " late");
  }
  return out + "\n";
}

struct Column {
  const char* name;
  int width;
  std::string cell;
};

std::vector<Column> Cells(const LoadSubject& subject, const MeasuredLoad& load,
                          const MeasuredLoad& first) {
  const LoadResult& r = load.result;
  const double speed = PerSecond(r, r.output_tokens);
  const double first_speed = PerSecond(first.result, first.result.output_tokens);
  std::vector<Column> cells = {
      {"load", 16, PointName(load)},
      {"completed", 9, absl::StrCat(r.completed)},
      {"refused", 7, absl::StrCat(r.refused)},
      {"failed", 6, absl::StrCat(r.failed)},
      {"requests/s", 10, absl::StrFormat("%.4g", PerSecond(r, r.completed))},
      {"tokens/s", 9, absl::StrFormat("%.5g", speed)},
      {"x first", 7, first_speed > 0 ? absl::StrFormat("%.2f", speed / first_speed) : "-"},
      {"TTFT p50", 9, Milliseconds(r.ttft.Percentile(0.5))},
      {"p99", 9, Milliseconds(r.ttft.Percentile(0.99))},
      {"ITL p50", 9, Milliseconds(r.itl.Percentile(0.5))},
      {"p99", 9, Milliseconds(r.itl.Percentile(0.99))},
      {"E2EL p50", 9, Milliseconds(r.e2el.Percentile(0.5))},
      {"flash/token", 11, FormatBytes(static_cast<uint64_t>(r.server.flash_bytes_per_token()))},
      {"hit rate", 8, Percent(r.server.hit_rate())}};
  if (subject.goals) {
    cells.insert(cells.begin() + 5, {"goodput", 8, absl::StrFormat("%.4g", PerSecond(r, r.good))});
  }
  return cells;
}

Json LatencyJson(const LoadResult& result) {
  Json json = Json::object();
  for (const auto& [unused, key, histogram] : Latencies(result)) {
    const auto add = [&, key = key](const char* what, double seconds) {
      json[absl::StrCat(what, "_", key, "_ms")] = 1e3 * seconds;
    };
    add("mean", histogram->mean());
    add("median", histogram->Percentile(0.5));
    add("p90", histogram->Percentile(0.9));
    add("p95", histogram->Percentile(0.95));
    add("p99", histogram->Percentile(0.99));
    add("max", histogram->max());
  }
  return json;
}

Json ErrorsJson(const LoadResult& result) {
  Json errors = Json::array();
  for (const LoadErrors& kind : result.errors) {
    errors.push_back({{"code", kind.code},
                      {"reason", kind.reason},
                      {"count", kind.count},
                      {"example", kind.example}});
  }
  return errors;
}

Json ServerJson(const ServerAccounts& server) {
  return {{"generated_tokens", server.generated_tokens},
          {"flash_bytes_per_token", server.flash_bytes_per_token()},
          {"flash_decode_bytes", server.decode_bytes},
          {"flash_prefill_bytes", server.prefill_bytes},
          {"flash_reads", server.reads},
          {"hit_units", server.hit_units},
          {"miss_units", server.miss_units},
          {"hit_rate", server.hit_rate()},
          {"prefill_seconds", server.prefill_seconds},
          {"decode_seconds", server.decode_seconds},
          {"stall_seconds", server.stall_seconds}};
}

// Every figure that is one number or text.
Json FiguresJson(const LoadSubject& subject, const MeasuredLoad& load) {
  const LoadResult& r = load.result;
  Json json = {{"model", subject.model},
               {"request_rate", load.rate.has_value() ? Json(*load.rate) : Json("inf")},
               {"max_concurrency", load.streams},
               {"seed", subject.seed},
               {"duration", r.seconds},
               {"begun", r.begun},
               {"completed", r.completed},
               {"refused", r.refused},
               {"failed", r.failed},
               {"cut_off", r.cut_off},
               {"cut_off_waiting", r.cut_off_waiting},
               {"max_concurrent_requests", r.most_streams},
               {"total_input_tokens", r.prompt_tokens},
               {"total_output_tokens", r.output_tokens},
               {"token_events", r.token_events},
               {"request_throughput", PerSecond(r, r.completed)},
               {"output_throughput", PerSecond(r, r.output_tokens)},
               {"total_token_throughput", PerSecond(r, AllTokens(r))}};
  if (subject.goals) json["request_goodput"] = PerSecond(r, r.good);
  json.update(LatencyJson(r));
  json["client_cpu_seconds"] = load.cpu_seconds;
  json["latest_start_ms"] = 1e3 * r.latest_start;
  return json;
}

std::string LoadCsv(const LoadSubject& subject, std::span<const MeasuredLoad> loads) {
  std::string out;
  for (const MeasuredLoad& load : loads) {
    Json row = FiguresJson(subject, load);
    row.erase("model");  // may hold any character
    row.update(ServerJson(load.result.server));
    std::string names, values;
    for (const auto& [name, value] : row.items()) {
      absl::StrAppend(&names, names.empty() ? "" : ",", name);
      absl::StrAppend(&values, values.empty() ? "" : ",",
                      value.is_string() ? value.get<std::string>() : value.dump());
    }
    if (out.empty()) out = names + "\n";
    absl::StrAppend(&out, values, "\n");
  }
  return out;
}

Plot SharePlot(std::string title, std::span<const MeasuredLoad> loads,
               LatencyHistogram LoadResult::*histogram) {
  Plot plot = {.title = std::move(title),
               .x_label = "milliseconds",
               .y_label = "share that took at most so long, %",
               .log_x = true};
  for (const MeasuredLoad& load : loads) {
    PlotSeries series = {.name = PointName(load), .marks = false};
    for (const auto& [seconds, share] : (load.result.*histogram).Cumulative()) {
      series.points.emplace_back(1e3 * seconds, 100 * share);
    }
    plot.series.push_back(std::move(series));
  }
  return plot;
}

// A line over the time of each run.
void AddTimeSeries(std::span<const MeasuredLoad> loads, IntervalSums LoadResult::*sums,
                   const std::string& what, Plot& plot) {
  for (const MeasuredLoad& load : loads) {
    plot.series.push_back({.name = PointName(load) + what,
                           .points = (load.result.*sums).Means(load.result.seconds),
                           .marks = false});
  }
}

// A figure of all runs against the load.
template <typename Figure>
PlotSeries AgainstLoad(std::string name, std::span<const MeasuredLoad> loads, Figure figure) {
  PlotSeries series = {.name = std::move(name)};
  for (const MeasuredLoad& load : loads) {
    series.points.emplace_back(load.rate.value_or(load.streams), figure(load.result));
  }
  std::sort(series.points.begin(), series.points.end());
  return series;
}

std::vector<std::pair<std::string, Plot>> SweepPlots(std::span<const MeasuredLoad> loads) {
  const char* x_label = loads.front().rate.has_value() ? "requests per second" : "streams at once";
  Plot speed = {.title = "Speed and load",
                .x_label = x_label,
                .y_label = "output tokens per second",
                .log_x = true,
                .y_from_zero = true};
  speed.series.push_back(AgainstLoad(
      "output tokens", loads, [](const LoadResult& r) { return PerSecond(r, r.output_tokens); }));
  Plot latency = {.title = "Latency and load",
                  .x_label = x_label,
                  .y_label = "milliseconds",
                  .log_x = true,
                  .log_y = true};
  for (const double share : {0.5, 0.99}) {
    const std::string name = absl::StrFormat(" p%g", 100 * share);
    latency.series.push_back(AgainstLoad("TTFT" + name, loads, [share](const LoadResult& r) {
      return 1e3 * r.ttft.Percentile(share);
    }));
    latency.series.push_back(AgainstLoad("ITL" + name, loads, [share](const LoadResult& r) {
      return 1e3 * r.itl.Percentile(share);
    }));
  }
  return {{"speed", std::move(speed)}, {"latency", std::move(latency)}};
}

std::vector<std::pair<std::string, Plot>> Plots(std::span<const MeasuredLoad> loads) {
  std::vector<std::pair<std::string, Plot>> plots;
  if (loads.size() > 1) plots = SweepPlots(loads);
  plots.emplace_back("ttft", SharePlot("Time to first token (TTFT)", loads, &LoadResult::ttft));
  plots.emplace_back("itl", SharePlot("Time between tokens (ITL)", loads, &LoadResult::itl));
  Plot tokens = {.title = "Output tokens over time",
                 .x_label = "seconds",
                 .y_label = "tokens per second",
                 .y_from_zero = true};
  AddTimeSeries(loads, &LoadResult::tokens, "", tokens);
  plots.emplace_back("tokens", std::move(tokens));
  Plot streams = {.title = "Streams over time",
                  .x_label = "seconds",
                  .y_label = "open streams",
                  .y_from_zero = true};
  AddTimeSeries(loads, &LoadResult::receiving, ", running", streams);
  AddTimeSeries(loads, &LoadResult::waiting, ", waiting", streams);
  plots.emplace_back("streams", std::move(streams));
  return plots;
}

}  // namespace

std::string LoadText(const LoadSubject& subject, const MeasuredLoad& load) {
  return absl::StrCat(PointName(load), ", ", FormatSeconds(load.result.seconds), ". ",
                      subject.workload, "\n", CountLine(subject, load), LatencyLines(load.result),
                      ServerLines(load.result), GeneratorLine(load), ErrorLines(load.result));
}

std::string LoadTable(const LoadSubject& subject, std::span<const MeasuredLoad> loads) {
  std::string out = absl::StrCat(subject.workload, " Latencies in milliseconds.\n");
  const auto add_line = [&](const std::vector<Column>& cells, bool names) {
    std::string line;
    for (const Column& column : cells) {
      absl::StrAppendFormat(&line, "%*s  ", column.width, names ? column.name : column.cell);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&out, line, "\n");
  };
  for (const MeasuredLoad& load : loads) {
    const std::vector<Column> cells = Cells(subject, load, loads.front());
    if (&load == &loads.front()) add_line(cells, /*names=*/true);
    add_line(cells, /*names=*/false);
  }
  for (const MeasuredLoad& load : loads) {
    if (load.result.errors.empty()) continue;
    absl::StrAppend(&out, PointName(load), ":\n", ErrorLines(load.result));
  }
  return out;
}

std::string LoadJson(const LoadSubject& subject, const MeasuredLoad& load) {
  Json json = FiguresJson(subject, load);
  json["server"] = ServerJson(load.result.server);
  Json reasons = Json::object();
  for (const auto& [reason, count] : load.result.finish_reasons) {
    reasons[v1::FinishReason_Name(reason)] = count;
  }
  json["finish_reasons"] = std::move(reasons);
  json["errors"] = ErrorsJson(load.result);
  return json.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
}

ReportPage LoadPage(const LoadSubject& subject, std::span<const MeasuredLoad> loads) {
  ReportPage page;
  page.title = absl::StrCat("Load on ", subject.model);
  page.about = absl::StrCat(
      "tidegate ", TIDEGATE_VERSION, " against ", subject.server, ". ", subject.workload, " Seed ",
      subject.seed,
      ". TTFT: from the moment at which a request is due to its first token; ITL: between two "
      "events with tokens; TPOT: mean time per token after the first; E2EL: to the end of the "
      "stream. Running streams have had their first token. Percentiles are exact to half a "
      "percent.");
  page.command = subject.command;
  page.plots = Plots(loads);
  for (const MeasuredLoad& load : loads) {
    const std::vector<Column> cells = Cells(subject, load, loads.front());
    std::vector<std::string> row;
    for (const Column& column : cells) {
      if (page.rows.empty()) page.columns.emplace_back(column.name);
      row.push_back(column.cell);
    }
    page.rows.push_back(std::move(row));
    absl::StrAppend(&page.conclusions, page.conclusions.empty() ? "" : "\n",
                    LoadText(subject, load));
  }
  page.csv = LoadCsv(subject, loads);
  return page;
}

}  // namespace tidegate
