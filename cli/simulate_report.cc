#include "cli/simulate_report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"

namespace tidegate {
namespace {

const std::vector<std::string>& Columns() {
  static const auto* columns = new std::vector<std::string>{
      "DRAM", "flash", "policy", "hit rate", "flash/token", "tokens/s", "x dense"};
  return *columns;
}

std::string FlashText(const SimulatedRow& row) {
  return absl::StrFormat("%.3g GB/s", row.flash_bytes_per_second / 1e9);
}

std::vector<std::string> ReportCells(const SimulatedRow& row) {
  return {FormatBytes(row.dram_bytes),
          FlashText(row),
          row.policy,
          absl::StrFormat("%.1f %%", 100 * row.hit_rate),
          FormatBytes(static_cast<uint64_t>(row.flash_bytes_per_token)),
          absl::StrFormat("%.3f", row.tokens_per_second),
          absl::StrFormat("%.2f", row.times_dense)};
}

double Gigabytes(const SimulatedRow& row) { return static_cast<double>(row.dram_bytes) / 1e9; }
double FlashSpeed(const SimulatedRow& row) { return row.flash_bytes_per_second / 1e9; }
double Speed(const SimulatedRow& row) { return row.tokens_per_second; }

}  // namespace

std::string SimulatedTable(std::span<const SimulatedRow> rows) {
  std::string out;
  const auto add = [&](const std::vector<std::string>& cells) {
    absl::StrAppendFormat(&out, "%-12s %-10s %-8s %9s %14s %10s %8s\n", cells[0], cells[1],
                          cells[2], cells[3], cells[4], cells[5], cells[6]);
  };
  add(Columns());
  for (const SimulatedRow& row : rows) add(ReportCells(row));
  return out;
}

std::string SimulatedCsv(std::span<const SimulatedRow> rows) {
  std::string out =
      "dram_bytes,flash_bytes_per_second,policy,hit_rate,flash_bytes_per_token,tokens_per_second,"
      "times_dense\n";
  for (const SimulatedRow& row : rows) {
    absl::StrAppendFormat(&out, "%d,%.0f,%s,%.6f,%.0f,%.6f,%.6f\n", row.dram_bytes,
                          row.flash_bytes_per_second, row.policy, row.hit_rate,
                          row.flash_bytes_per_token, row.tokens_per_second, row.times_dense);
  }
  return out;
}

ReportPage SimulatedPage(std::span<const SimulatedRow> rows) {
  ReportPage page;
  const auto dram_name = [](const SimulatedRow& row) {
    return absl::StrCat(row.policy, ", ", FormatBytes(row.dram_bytes));
  };
  page.plots.emplace_back(
      "dram",
      Plot{.title = "Speed and memory",
           .x_label = "DRAM, GB",
           .y_label = "tokens per second",
           .series = SeriesOf(
               rows,
               [](const SimulatedRow& r) { return absl::StrCat(r.policy, ", ", FlashText(r)); },
               Gigabytes, Speed),
           .log_y = true});
  page.plots.emplace_back("flash", Plot{.title = "Speed and flash",
                                        .x_label = "flash, GB/s",
                                        .y_label = "tokens per second",
                                        .series = SeriesOf(rows, dram_name, FlashSpeed, Speed),
                                        .log_x = true,
                                        .log_y = true});
  std::vector<SimulatedRow> pruned;
  for (const SimulatedRow& row : rows) {
    if (row.policy != "dense") pruned.push_back(row);
  }
  page.plots.emplace_back(
      "gain", Plot{.title = "Gain over dense",
                   .x_label = "flash, GB/s",
                   .y_label = "times as fast as dense",
                   .series = SeriesOf(pruned, dram_name, FlashSpeed,
                                      [](const SimulatedRow& r) { return r.times_dense; }),
                   .log_x = true});
  page.columns = Columns();
  for (const SimulatedRow& row : rows) page.rows.push_back(ReportCells(row));
  page.csv = SimulatedCsv(rows);
  return page;
}

}  // namespace tidegate
