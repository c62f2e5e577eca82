// `tidegate plan`: what memory budgets would hold of a model, and how fast it would be here.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/flags.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/byte_values.h"
#include "cli/commands.h"
#include "cli/terminal_text.h"
#include "measure/local_model.h"
#include "measure/machine_speeds.h"
#include "measure/serving_plan.h"

namespace tidegate {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kShownPlanPathBytes = 4096;

constexpr const char* kPlanExamples =
    R"(Measures this machine and the drive for some seconds, then computes; loads no model. MODEL is
a pack, or a GGUF file or Hugging Face folder, for which a pack with --units is planned. The
speeds are those of one stream with a short context in a warm store; run it while nothing else
runs. docs/plan.md has the formulas, and how near they come. dip_ca is with the default gamma
and protected share; its hit rates are of models that were measured, yours differ.

Examples:
  tidegate plan model.tgpack                            budgets of 40, 55, 70 and 100 %
  tidegate plan model.tgpack --memory 4GiB,8GiB --densities 0.75,0.5
  tidegate plan model.gguf --units q4 --drive /mnt/nvme    before packing it there
  tidegate plan model.tgpack --memory 8GiB --json | jq '.budgets[0].points'
)";

struct PlanFlags {
  std::string model;
  std::string memory = "40%,55%,70%,100%";
  std::string drive;
  std::string units;  // empty: q8, or the pack's own
  std::vector<double> densities = {0.75, 0.5};
  std::optional<uint64_t> engine_reserve;
  SpeedQuestion speed;
  bool json = false;
};

struct Budget {
  std::string name;  // as it was given
  std::string error;
  BudgetSplit split;
  std::vector<TokenCost> costs;  // dense, then by density
};

struct Report {
  PlanFlags flags;
  PackIndex pack;
  bool packed = false;
  uint64_t whole = 0;
  MeasuredSpeeds measured;
  std::vector<Budget> budgets;
};

std::string Rate(double bytes_per_second) {
  return absl::StrFormat("%.3g GB/s", bytes_per_second / 1e9);
}

std::string Encoding(const PackIndex& pack) {
  return std::string(UnitEncodingName(static_cast<UnitEncoding>(pack.manifest.unit_encoding())));
}

// Budgets that are too small for the model stay in the list, with the reason.
absl::Status SplitBudgets(Report& report) {
  BudgetRequest request;
  request.engine_reserve_bytes = report.flags.engine_reserve;
  const double share = report.pack.manifest.profile().conditions().input_share();
  if (share > 0) request.input_share = share;
  ASSIGN_OR_RETURN(report.whole, WholeBudget(report.pack, request));
  const std::vector<std::string> names =
      absl::StrSplit(report.flags.memory, ',', absl::SkipWhitespace());
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(request.memory_budget_bytes, ParseByteShare("--memory", name, report.whole));
    absl::StatusOr<BudgetSplit> split = SplitBudget(report.pack, request);
    if (!split.ok() && !absl::IsResourceExhausted(split.status())) return split.status();
    Budget budget;
    budget.name = name;
    if (split.ok()) {
      budget.split = *split;
    } else {
      budget.split.budget = request.memory_budget_bytes;
      budget.error = std::string(split.status().message());
    }
    report.budgets.push_back(std::move(budget));
  }
  if (report.budgets.empty()) return absl::InvalidArgumentError("--memory: name a budget");
  const bool any = std::any_of(report.budgets.begin(), report.budgets.end(),
                               [](const Budget& budget) { return budget.error.empty(); });
  if (any) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("--memory: no budget works: ", report.budgets.back().error));
}

absl::Status FillReport(Report& report) {
  const PlanFlags& flags = report.flags;
  report.packed = StartsAsPack(flags.model);
  if (report.packed && !flags.units.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--units: ", flags.model, " is a pack and has units of its own"));
  }
  ASSIGN_OR_RETURN(const UnitEncoding units,
                   ParseUnitEncoding(flags.units.empty() ? "q8" : flags.units));
  ASSIGN_OR_RETURN(report.pack, PlannedPack(flags.model, units));
  RETURN_IF_ERROR(SplitBudgets(report));
  SpeedQuestion question = flags.speed;
  question.drive = flags.drive.empty() ? flags.model : flags.drive;
  for (const Budget& budget : report.budgets) {
    question.stream_bytes = std::max(question.stream_bytes, budget.split.lease_staging_bytes);
  }
  ASSIGN_OR_RETURN(report.measured, MeasureSpeeds(report.pack, question));
  for (Budget& budget : report.budgets) {
    if (!budget.error.empty()) continue;
    const auto add = [&](double density) {
      budget.costs.push_back(
          CostOfToken(report.pack, budget.split, report.measured.speeds, density));
    };
    add(1);
    for (const double density : flags.densities) add(density);
  }
  return absl::OkStatus();
}

double DensityOf(const Report& report, size_t point) {
  return point == 0 ? 1 : report.flags.densities[point - 1];
}

Json SpeedsJson(const MeasuredSpeeds& measured) {
  const MachineSpeeds& speeds = measured.speeds;
  return {{"backend", measured.flash.backend},
          {"direct", measured.flash.direct},
          {"why_not_direct", measured.flash.why_not_direct},
          {"input_block_bytes_per_second", speeds.block_rate[0]},
          {"hidden_block_bytes_per_second", speeds.block_rate[1]},
          {"stream_bytes_per_second", speeds.stream_rate},
          {"stream_read_bytes", measured.stream_read_bytes},
          {"read_seconds", speeds.read_seconds},
          {"kernels", measured.kernels},
          {"threads", measured.threads},
          {"static_bytes_per_second", speeds.static_rate},
          {"input_unit_bytes_per_second", speeds.unit_rate[0]},
          {"hidden_unit_bytes_per_second", speeds.unit_rate[1]},
          {"overlap", speeds.overlap}};
}

Json BudgetJson(const Report& report, const Budget& budget) {
  Json out = {{"budget", budget.name}, {"budget_bytes", budget.split.budget}};
  if (!budget.error.empty()) {
    out["error"] = budget.error;
    return out;
  }
  const BudgetSplit& split = budget.split;
  out["used_bytes"] = split.used;
  out["static_bytes"] = split.static_bytes;
  out["static_on_flash_bytes"] = split.static_on_flash_bytes;
  out["slot_bytes"] = split.slot_bytes;
  out["staging_bytes"] = split.staging_bytes;
  out["table_bytes"] = split.table_bytes;
  out["engine_reserve_bytes"] = split.engine_reserve_bytes;
  out["cached_input_share"] = split.cached[0];
  out["cached_hidden_share"] = split.cached[1];
  out["points"] = Json::array();
  for (size_t i = 0; i < budget.costs.size(); ++i) {
    const TokenCost& cost = budget.costs[i];
    out["points"].push_back({{"mode", i == 0 ? "dense" : "dip_ca"},
                             {"density", DensityOf(report, i)},
                             {"flash_bytes_per_token", cost.flash_bytes},
                             {"io_seconds", cost.io_seconds},
                             {"compute_seconds", cost.compute_seconds},
                             {"tokens_per_second", cost.tokens_per_second}});
  }
  return out;
}

Json ReportJson(const Report& report) {
  Json budgets = Json::array();
  for (const Budget& budget : report.budgets) budgets.push_back(BudgetJson(report, budget));
  return {{"model", report.flags.model},
          {"packed", report.packed},
          {"units", Encoding(report.pack)},
          {"static_bytes", report.pack.header.static_bytes},
          {"streamed_bytes", report.pack.geometry.blocks_bytes()},
          {"whole_bytes", report.whole},
          {"speeds", SpeedsJson(report.measured)},
          {"budgets", budgets}};
}

void PrintSpeeds(const Report& report) {
  const MeasuredSpeeds& measured = report.measured;
  const MachineSpeeds& speeds = measured.speeds;
  std::printf("%s%s, %s units: %s static, %s streamed; all of it in memory takes %s\n",
              Printable(report.flags.model, kShownPlanPathBytes).c_str(),
              report.packed ? "" : " (not packed yet)", Encoding(report.pack).c_str(),
              FormatBytes(report.pack.header.static_bytes).c_str(),
              FormatBytes(report.pack.geometry.blocks_bytes()).c_str(),
              FormatBytes(report.whole).c_str());
  std::printf("drive: blocks %s (input) and %s (hidden), reads of %s %s, a single one %s; %s%s\n",
              Rate(speeds.block_rate[0]).c_str(), Rate(speeds.block_rate[1]).c_str(),
              FormatBytes(measured.stream_read_bytes).c_str(), Rate(speeds.stream_rate).c_str(),
              FormatSeconds(speeds.read_seconds).c_str(), measured.flash.backend.c_str(),
              measured.flash.direct ? ", O_DIRECT" : "");
  if (!measured.flash.direct) {
    std::printf("  not the drive's own speed, but the page cache's: %s\n",
                measured.flash.why_not_direct.c_str());
  }
  std::printf(
      "weights: static %s, units %s (input) and %s (hidden) on %u threads (%s); "
      "%.0f %% of the shorter task is hidden\n\n",
      Rate(speeds.static_rate).c_str(), Rate(speeds.unit_rate[0]).c_str(),
      Rate(speeds.unit_rate[1]).c_str(), measured.threads, measured.kernels.c_str(),
      100 * speeds.overlap);
}

void PrintSplits(const Report& report) {
  std::printf("%-9s %10s %10s %10s %10s %10s %10s %7s\n", "budget", "bytes", "static", "slots",
              "staging", "tables", "reserve", "cached");
  for (const Budget& budget : report.budgets) {
    const BudgetSplit& split = budget.split;
    std::printf("%-9s %10s ", budget.name.c_str(), FormatBytes(split.budget).c_str());
    if (!budget.error.empty()) {
      std::printf("%s\n", budget.error.c_str());
      continue;
    }
    const double layer = static_cast<double>(report.pack.geometry.blocks_bytes());
    std::printf("%10s %10s %10s %10s %10s %5.1f %%\n", FormatBytes(split.static_bytes).c_str(),
                FormatBytes(split.slot_bytes).c_str(), FormatBytes(split.staging_bytes).c_str(),
                FormatBytes(split.table_bytes).c_str(),
                FormatBytes(split.engine_reserve_bytes).c_str(),
                100 * static_cast<double>(split.slot_bytes) / std::max(1.0, layer));
  }
}

void PrintPoints(const Report& report) {
  std::printf("\n%-9s %-7s %7s %12s %10s %10s %10s\n", "budget", "mode", "density", "flash/token",
              "reading", "computing", "tokens/s");
  for (const Budget& budget : report.budgets) {
    for (size_t i = 0; i < budget.costs.size(); ++i) {
      const TokenCost& cost = budget.costs[i];
      std::printf("%-9s %-7s %7.2f %12s %10s %10s %10.2f\n", budget.name.c_str(),
                  i == 0 ? "dense" : "dip_ca", DensityOf(report, i),
                  FormatBytes(static_cast<uint64_t>(cost.flash_bytes)).c_str(),
                  FormatSeconds(cost.io_seconds).c_str(),
                  FormatSeconds(cost.compute_seconds).c_str(), cost.tokens_per_second);
    }
  }
}

absl::Status RunPlan(const PlanFlags& flags) {
  Report report;
  report.flags = flags;
  RETURN_IF_ERROR(FillReport(report));
  if (flags.json) {
    const std::string text = JsonForOutput(ReportJson(report)) + "\n";
    std::fwrite(text.data(), 1, text.size(), stdout);
  } else {
    PrintSpeeds(report);
    PrintSplits(report);
    PrintPoints(report);
  }
  return absl::OkStatus();
}

}  // namespace

void AddPlanCommand(CLI::App& app, CommandRun& run) {
  const auto flags = std::make_shared<PlanFlags>();
  CLI::App& command =
      AddSubcommand(app, "plan", "What fits into memory, and how fast it will be", kPlanExamples,
                    [flags, &run](const CLI::App&) { run = [flags] { return RunPlan(*flags); }; });
  AddFileFlag(command, "MODEL", flags->model, "A pack, a GGUF file or a Hugging Face folder")
      .Required();
  AddTextFlag(command, "--memory", flags->memory,
              "Memory budgets of the store, comma-separated: bytes, or percent of the whole");
  AddFileFlag(command, "--drive", flags->drive,
              "A folder on the drive to measure (a file of 256 MiB is made and removed), or "
              "a file; default: MODEL");
  AddRealListFlag(command, "--densities", flags->densities,
                  {.low = 0, .high = 1, .above_low = true}, "Densities of dip_ca, comma-separated");
  AddTextFlag(command, "--units", flags->units,
              "Units of the pack to be made: f16, q8, q4; default q8");
  AddTextFlag(
      command, "--engine-reserve",
      [flags](const std::string& text) {
        ASSIGN_OR_RETURN(flags->engine_reserve, ParseBytes(text));
        return absl::OkStatus();
      },
      "Part of the budget for the engine's KV cache; default: as the store")
      .Type("BYTES");
  AddIntegerFlag(command, "--queue-depth", flags->speed.queue_depth, {1, 4096},
                 "Reads in flight at most");
  AddIntegerFlag(command, "--threads", flags->speed.threads, {0, 1024},
                 "Compute threads; 0: one per core");
  AddRealFlag(command, "--seconds", flags->speed.seconds, {.low = 0.001, .high = 60},
              "For each of the nine rates that are measured");
  AddSwitch(command, "--json", flags->json, "JSON on standard output");
}

}  // namespace tidegate
