#include "measure/eval_report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"

namespace tidegate {
namespace {

// What lossless streaming is to be beaten by.
constexpr double kWantedSpeeds[] = {1.4, 2.7};

// The dense result, or null: losses are over its perplexity.
const EvalResult* Dense(std::span<const EvalResult> results) {
  const auto found = std::find_if(results.begin(), results.end(),
                                  [](const EvalResult& r) { return r.point.method == "dense"; });
  return found == results.end() ? nullptr : &*found;
}

std::string LossText(const EvalResult& result, const EvalResult* dense) {
  if (dense == nullptr || result.point.method == "dense") return "-";
  return absl::StrFormat("%+.2f %%", 100 * (result.perplexity() / dense->perplexity() - 1));
}

bool UsesGamma(const EvalResult& result) { return result.point.method == "dip_ca"; }

std::string GammaText(const EvalResult& result) {
  return UsesGamma(result) ? absl::StrFormat("%g", result.point.gamma) : "-";
}

std::string AccuracyText(const std::optional<double>& accuracy) {
  return accuracy.has_value() ? absl::StrFormat("%.1f %%", 100 * *accuracy) : "";
}

// "dip_ca, gamma 0.2, cache 0.5"; the cache only where results differ in it.
std::string SeriesName(const EvalResult& result, bool cache) {
  std::string name = result.point.method;
  if (UsesGamma(result)) absl::StrAppendFormat(&name, ", gamma %g", result.point.gamma);
  if (cache) absl::StrAppendFormat(&name, ", cache %g", result.point.cache_fraction);
  return name;
}

std::set<double> CacheFractions(std::span<const EvalResult> results) {
  std::set<double> fractions;
  for (const EvalResult& result : results) fractions.insert(result.point.cache_fraction);
  return fractions;
}

std::vector<EvalResult> WithCache(std::span<const EvalResult> results, double fraction) {
  std::vector<EvalResult> found;
  std::copy_if(results.begin(), results.end(), std::back_inserter(found),
               [&](const EvalResult& r) { return r.point.cache_fraction == fraction; });
  return found;
}

// Of perplexities, points by x.
template <typename Name, typename X>
std::vector<PlotSeries> Perplexities(std::span<const EvalResult> results, Name name, X x) {
  auto series = SeriesOf(results, name, x, [](const EvalResult& r) { return r.perplexity(); });
  for (PlotSeries& s : series) std::sort(s.points.begin(), s.points.end());
  return series;
}

std::string Conclusions(std::span<const EvalResult> results) {
  const EvalResult* dense = Dense(results);
  std::string out;
  for (const double fraction : CacheFractions(results)) {
    if (fraction >= 1) continue;  // Nothing is streamed there.
    const std::vector<EvalResult> some = WithCache(results, fraction);
    for (const double times : kWantedSpeeds) {
      absl::StrAppendFormat(&out, "cache %g, %gx streaming: ", fraction, times);
      const auto best = BestAt(some, times);
      if (!best.has_value()) {
        out.append("none of these\n");
        continue;
      }
      const EvalResult& r = some[*best];
      absl::StrAppendFormat(&out, "%s density %g gamma %s, perplexity %.4f (%s), %.2fx\n",
                            r.point.method, r.point.density, GammaText(r), r.perplexity(),
                            LossText(r, dense), r.times_streaming);
    }
  }
  return out;
}

constexpr const char* kColumns[] = {
    "method",      "density", "gamma",    "cache",       "perplexity", "loss",    "hit rate",
    "flash share", "memory",  "tokens/s", "x streaming", "accuracy",   "per byte"};

std::vector<std::string> Cells(const EvalResult& r, const EvalResult* dense) {
  return {r.point.method,
          absl::StrFormat("%.3g", r.density),
          GammaText(r),
          absl::StrFormat("%g", r.point.cache_fraction),
          absl::StrFormat("%.4f", r.perplexity()),
          LossText(r, dense),
          absl::StrFormat("%.1f %%", 100 * r.hit_rate()),
          absl::StrFormat("%.4f", r.flash_share),
          FormatBytes(r.memory_bytes),
          absl::StrFormat("%.4g", r.modelled_tokens_per_second),
          absl::StrFormat("%.2f", r.times_streaming),
          AccuracyText(r.accuracy),
          AccuracyText(r.accuracy_per_byte)};
}

// Columns that some result fills.
std::vector<bool> Shown(std::span<const EvalResult> results) {
  std::vector<bool> shown(std::size(kColumns), true);
  const bool accuracy = std::any_of(results.begin(), results.end(),
                                    [](const EvalResult& r) { return r.accuracy.has_value(); });
  shown[shown.size() - 1] = shown[shown.size() - 2] = accuracy;
  return shown;
}

}  // namespace

std::string EvalJson(const EvalResult& r) {
  nlohmann::ordered_json json = {{"method", r.point.method},
                                 {"density", r.point.density},
                                 {"gamma", UsesGamma(r) ? r.point.gamma : 1.0},
                                 {"cache_fraction", r.point.cache_fraction},
                                 {"perplexity", r.perplexity()},
                                 {"nll", r.nll},
                                 {"tokens", r.tokens},
                                 {"density_used", r.density},
                                 {"kept_input_units", r.kept_units[0]},
                                 {"kept_hidden_units", r.kept_units[1]},
                                 {"hit_rate", r.hit_rate()},
                                 {"hit_rate_input", r.hit_rate(UnitKind::kInput)},
                                 {"hit_rate_hidden", r.hit_rate(UnitKind::kHidden)},
                                 {"missed_input_units_per_token", r.missed_units[0]},
                                 {"missed_hidden_units_per_token", r.missed_units[1]},
                                 {"flash_bytes_per_token", r.flash_bytes},
                                 {"flash_share", r.flash_share},
                                 {"memory_bytes", r.memory_bytes},
                                 {"modelled_tokens_per_second", r.modelled_tokens_per_second},
                                 {"times_streaming", r.times_streaming}};
  if (r.accuracy.has_value()) {
    json["accuracy"] = *r.accuracy;
    json["accuracy_per_byte"] = *r.accuracy_per_byte;
  }
  return json.dump();
}

std::string EvalText(const EvalResult& r) {
  std::string out = absl::StrFormat(
      "perplexity        %.4f (%.6f nats per token over %d tokens)\n"
      "units per layer   %.5g input, %.5g hidden: %.1f %% of the MLP weights\n"
      "hit rate          %.1f %% of selected units (input %.1f %%, hidden %.1f %%)\n"
      "from flash        %.0f bytes per token, %.1f %% of the MLP weights\n"
      "modelled speed    %.4g tokens/s, %.2f times streaming every weight\n",
      r.perplexity(), r.nll, r.tokens, r.kept_units[0], r.kept_units[1], 100 * r.density,
      100 * r.hit_rate(), 100 * r.hit_rate(UnitKind::kInput), 100 * r.hit_rate(UnitKind::kHidden),
      r.flash_bytes, 100 * r.flash_share, r.modelled_tokens_per_second, r.times_streaming);
  if (r.accuracy.has_value()) {
    absl::StrAppendFormat(&out, "accuracy          %.1f %%, by likelihood per byte %.1f %%\n",
                          100 * *r.accuracy, 100 * *r.accuracy_per_byte);
  }
  return out;
}

std::string EvalTable(std::span<const EvalResult> results) {
  constexpr int kWidths[] = {7, 8, 6, 6, 10, 9, 9, 12, 11, 9, 12, 9, 9};
  static_assert(std::size(kWidths) == std::size(kColumns));
  const std::vector<bool> shown = Shown(results);
  std::string out;
  const auto add_row = [&](const auto& cell_of) {
    std::string line;
    for (size_t c = 0; c < shown.size(); ++c) {
      if (shown[c]) absl::StrAppendFormat(&line, "%*s  ", kWidths[c], cell_of(c));
    }
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&out, line, "\n");
  };
  add_row([](size_t c) { return std::string(kColumns[c]); });
  for (const EvalResult& result : results) {
    const std::vector<std::string> cells = Cells(result, Dense(results));
    add_row([&](size_t c) { return cells[c]; });
  }
  return absl::StrCat(out, "\n", Conclusions(results));
}

std::string EvalCsv(std::span<const EvalResult> results) {
  std::string out =
      "method,density,gamma,cache_fraction,perplexity,nll,tokens,density_used,hit_rate,"
      "hit_rate_input,hit_rate_hidden,flash_share,flash_bytes_per_token,memory_bytes,"
      "modelled_tokens_per_second,times_streaming,accuracy,accuracy_per_byte\n";
  for (const EvalResult& r : results) {
    absl::StrAppendFormat(
        &out, "%s,%g,%g,%g,%.6f,%.6f,%d,%.6f,%.6f,%.6f,%.6f,%.6f,%.0f,%d,%.6f,%.6f", r.point.method,
        r.point.density, UsesGamma(r) ? r.point.gamma : 1.0, r.point.cache_fraction, r.perplexity(),
        r.nll, r.tokens, r.density, r.hit_rate(), r.hit_rate(UnitKind::kInput),
        r.hit_rate(UnitKind::kHidden), r.flash_share, r.flash_bytes, r.memory_bytes,
        r.modelled_tokens_per_second, r.times_streaming);
    if (r.accuracy.has_value()) {
      absl::StrAppendFormat(&out, ",%.6f,%.6f\n", *r.accuracy, *r.accuracy_per_byte);
    } else {
      out.append(",,\n");
    }
  }
  return out;
}

Plot DensityPlot(std::span<const EvalResult> results) {
  const bool cache = CacheFractions(results).size() > 1;
  // Of what does not look at the cache, one line says it all.
  return {.title = "Perplexity and density",
          .x_label = "share of the MLP weights used",
          .y_label = "perplexity",
          .series = Perplexities(
              results, [&](const EvalResult& r) { return SeriesName(r, cache && UsesGamma(r)); },
              [](const EvalResult& r) { return r.density; }),
          .log_y = true};
}

Plot MemoryPlot(std::span<const EvalResult> results) {
  return {.title = "Perplexity and memory",
          .x_label = "weights and key/value cache in memory, MiB",
          .y_label = "perplexity",
          .series = Perplexities(
              results,
              [](const EvalResult& r) {
                return absl::StrFormat("%s, density %g", SeriesName(r, false), r.point.density);
              },
              [](const EvalResult& r) { return static_cast<double>(r.memory_bytes) / kMiB; }),
          .log_y = true};
}

Plot SpeedPlot(std::span<const EvalResult> results) {
  const auto speed = [](const EvalResult& r) { return r.modelled_tokens_per_second; };
  Plot plot = {.title = "Perplexity and modelled speed",
               .x_label = "tokens per second",
               .y_label = "perplexity",
               .log_x = true,
               .log_y = true};
  const std::set<double> fractions = CacheFractions(results);
  plot.series = Perplexities(
      results, [&](const EvalResult& r) { return SeriesName(r, fractions.size() > 1); }, speed);
  for (PlotSeries& series : plot.series) series.line = false;
  for (const double fraction : fractions) {
    const std::vector<EvalResult> some = WithCache(results, fraction);
    PlotSeries front = {.name = absl::StrFormat("best at cache %g", fraction)};
    for (const size_t i : ParetoFront(some)) {
      front.points.emplace_back(speed(some[i]), some[i].perplexity());
    }
    plot.series.push_back(std::move(front));
  }
  return plot;
}

ReportPage EvalPage(const EvalSubject& subject, std::span<const EvalResult> results) {
  ReportPage page;
  page.title = absl::StrCat("Accuracy of ", subject.model);
  page.about = absl::StrFormat(
      "%d tokens of %s. Speeds are modelled: DRAM %.4g GB/s, flash %.4g GB/s, everything else "
      "free; "
      "\"x streaming\" is over reading every weight with the same share of units in memory. "
      "\"Flash "
      "share\" is what a token reads from flash, of all MLP weights.",
      results.empty() ? 0 : results.front().tokens, subject.text,
      subject.device.dram_bytes_per_second / 1e9, subject.device.flash_bytes_per_second / 1e9);
  page.command = subject.command;
  page.plots = {{"density", DensityPlot(results)},
                {"memory", MemoryPlot(results)},
                {"speed", SpeedPlot(results)}};
  const std::vector<bool> shown = Shown(results);
  const auto only_shown = [&](const auto& cells) {
    std::vector<std::string> some;
    for (size_t c = 0; c < shown.size(); ++c) {
      if (shown[c]) some.push_back(cells[c]);
    }
    return some;
  };
  page.columns = only_shown(kColumns);
  for (const EvalResult& result : results) {
    page.rows.push_back(only_shown(Cells(result, Dense(results))));
  }
  page.conclusions = Conclusions(results);
  page.csv = EvalCsv(results);
  return page;
}

}  // namespace tidegate
