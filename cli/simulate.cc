// `tidegate simulate`: what recorded masks would cost on machines that are not here.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/flags.h"
#include "base/progress.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "cli/byte_values.h"
#include "cli/command_text.h"
#include "cli/commands.h"
#include "cli/inspect_report.h"
#include "cli/simulate_report.h"
#include "measure/report_folder.h"
#include "packer/atomic_file.h"
#include "proto/store/v1/pack_format.h"
#include "simulator/cache_replay.h"
#include "simulator/memory_model.h"

namespace tidegate {
namespace {

constexpr const char* kSimulateExamples = R"(Examples:
  tidegate simulate --shape llama-3-8b        a published model, every weight, 4 bits
  tidegate eval model.gguf --text t.txt --mode dip --density 0.5 --record t.trace
  tidegate pack model.gguf
  tidegate simulate --pack model.tgpack --trace t.trace --dram 30%,50%,70% --flash 1GB/s,3GB/s
  tidegate simulate --pack model.tgpack --trace t.trace --policies lfu,belady --csv grid.csv

A token takes static bytes / DRAM speed, and for the MLP units of every layer hits / DRAM speed plus
misses / flash speed (--overlap: the larger of the two). Nothing else costs anything: compare rows,
do not expect them of a machine. Weights other than the MLP and the key/value cache go into DRAM
first; percentages of --dram are shares of all that. `dense` touches every unit, with a fixed share
of them in DRAM. Masks are replayed one unit per block, through the cache that the store has (value,
lfu, lru, none) or Belady's oracle, which knows the masks to come. A mask recorded with --mode dip
does not depend on the cache; one of dip_ca was made for the cache it saw.
)";

constexpr uint64_t kMaxKvTokens = uint64_t{1} << 32;

struct SimulateFlags {
  std::string shape, pack, trace;
  std::string dram = "30%,50%,70%,100%";
  std::string flash = "0.5GB/s,1GB/s,2GB/s,4GB/s";
  std::string policies = "none,lru,lfu,belady";
  std::string dram_speed = "60GB/s";
  std::string latency = "0us";
  std::string reads_per_second = "0";
  double bits = 4;
  uint64_t kv_tokens = 2048;
  bool overlap = false;
  bool json = false;
  std::string csv, report;  // paths
};

absl::StatusOr<ModelBytes> ModelOfShape(const SimulateFlags& flags) {
  std::vector<std::string> names;
  for (const ModelDimensions& model : PublishedModels()) {
    if (model.name == flags.shape) return BytesOf(model, flags.bits, flags.kv_tokens);
    names.emplace_back(model.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--shape: '", flags.shape, "' is not known; use ", absl::StrJoin(names, ", ")));
}

absl::StatusOr<ModelBytes> ModelOfPack(const SimulateFlags& flags) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(flags.pack));
  ASSIGN_OR_RETURN(const PackIndex index, ReadPackIndex(fd.get(), flags.pack));
  const auto& hp = index.manifest.hyper_parameters();
  return ModelBytes{
      .shape = ShapeOf(index.geometry),
      .unit_bytes = {index.geometry.kinds[0].unit_bytes, index.geometry.kinds[1].unit_bytes},
      .static_bytes = index.header.static_bytes,
      .kv_bytes =
          uint64_t{4} * hp.kv_heads() * hp.head_size() * hp.layer_count() * flags.kv_tokens};
}

absl::StatusOr<DeviceSpeeds> Device(const SimulateFlags& flags) {
  DeviceSpeeds device = {.overlapped = flags.overlap};
  ASSIGN_OR_RETURN(device.dram_bytes_per_second, ParseByteRate("--dram-speed", flags.dram_speed));
  const auto latency = ParseDuration(flags.latency);
  if (!latency.ok()) return Annotate(latency.status(), "--latency");
  device.flash_latency_seconds = std::chrono::duration<double>(*latency).count();
  const auto reads = ParseCount(flags.reads_per_second);
  if (!reads.ok()) return Annotate(reads.status(), "--iops");
  device.flash_reads_per_second = *reads;
  return device;
}

// Hits and misses of every (layer, kind), token by token, for one policy and amount of DRAM.
using Replays = std::vector<ReplayCounts>;

absl::StatusOr<Replays> ReplayAll(const MaskTrace& trace, const ModelBytes& model,
                                  uint64_t dram_bytes, const std::string& policy) {
  const double share = CachedShare(model, dram_bytes);
  Replays replays;
  for (uint32_t layer = 0; layer < model.shape.layer_count; ++layer) {
    for (const UnitKind kind : {UnitKind::kInput, UnitKind::kHidden}) {
      const auto slots =
          static_cast<uint32_t>(share * model.shape.unit_count[static_cast<uint32_t>(kind)]);
      ASSIGN_OR_RETURN(ReplayCounts counts, ReplayMasks(trace, layer, kind, slots, policy));
      replays.push_back(std::move(counts));
    }
  }
  return replays;
}

SimulatedRow PrunedRow(const Replays& replays, uint64_t tokens, const ModelBytes& model,
                       uint64_t dram_bytes, const DeviceSpeeds& device, const std::string& policy) {
  double seconds = 0, hits = 0, misses = 0, missed_bytes = 0;
  for (size_t i = 0; i < replays.size(); ++i) {
    const uint64_t unit_bytes = model.unit_bytes[i % kUnitKinds];
    for (uint64_t t = 0; t < tokens; ++t) {
      seconds += UnitSeconds(unit_bytes, replays[i].hits[t], replays[i].misses[t], device);
      hits += replays[i].hits[t];
      misses += replays[i].misses[t];
      missed_bytes += static_cast<double>(replays[i].misses[t] * unit_bytes);
    }
  }
  const auto count = static_cast<double>(tokens);
  return {.dram_bytes = dram_bytes,
          .flash_bytes_per_second = device.flash_bytes_per_second,
          .policy = policy,
          .hit_rate = hits + misses > 0 ? hits / (hits + misses) : 0,
          .flash_bytes_per_token = missed_bytes / count,
          .tokens_per_second = 1 / (StaticSeconds(model, dram_bytes, device) + seconds / count)};
}

SimulatedRow DenseRow(const ModelBytes& model, uint64_t dram_bytes, const DeviceSpeeds& device) {
  const double share = CachedShare(model, dram_bytes);
  return {.dram_bytes = dram_bytes,
          .flash_bytes_per_second = device.flash_bytes_per_second,
          .policy = "dense",
          .hit_rate = share,
          .flash_bytes_per_token = (1 - share) * static_cast<double>(model.mlp()),
          .tokens_per_second = 1 / DenseSeconds(model, dram_bytes, device)};
}

Json RowJson(const SimulatedRow& row) {
  return {{"dram_bytes", row.dram_bytes},
          {"flash_bytes_per_second", row.flash_bytes_per_second},
          {"policy", row.policy},
          {"hit_rate", row.hit_rate},
          {"flash_bytes_per_token", row.flash_bytes_per_token},
          {"tokens_per_second", row.tokens_per_second},
          {"times_dense", row.times_dense}};
}

std::string SizesText(const ModelBytes& model) {
  return absl::StrFormat("static %s, key/value cache %s, MLP %s", FormatBytes(model.static_bytes),
                         FormatBytes(model.kv_bytes), FormatBytes(model.mlp()));
}

absl::Status WriteReport(const SimulateFlags& flags, const std::string& command,
                         const ModelBytes& model, std::span<const SimulatedRow> rows) {
  ReportPage page = SimulatedPage(rows);
  page.title = absl::StrCat("Modelled speed of ", flags.shape,
                            std::filesystem::path(flags.pack).filename().string());
  page.about = absl::StrCat(SizesText(model), ". DRAM ", flags.dram_speed,
                            flags.overlap ? ", read while flash is" : ", read after flash",
                            "; nothing else costs anything.");
  page.command = command;
  return WriteReportFolder(flags.report, page);
}

absl::Status RunSimulate(const SimulateFlags& flags, const std::string& command) {
  if (flags.shape.empty() == flags.pack.empty()) {
    return absl::InvalidArgumentError("give either --shape NAME or --pack FILE");
  }
  const std::string inputs[] = {flags.pack, flags.trace};
  RETURN_IF_ERROR(RefuseToReplace(inputs, flags.csv));
  ASSIGN_OR_RETURN(const ModelBytes model,
                   flags.shape.empty() ? ModelOfPack(flags) : ModelOfShape(flags));
  std::optional<MaskTrace> trace;
  if (!flags.trace.empty()) {
    ASSIGN_OR_RETURN(trace, MaskTrace::Load(flags.trace));
    RETURN_IF_ERROR(trace->CheckShape(model.shape));
  }
  if (!flags.report.empty()) RETURN_IF_ERROR(MakeReportFolder(flags.report));
  ASSIGN_OR_RETURN(DeviceSpeeds device, Device(flags));
  std::vector<double> flash_speeds;
  for (const absl::string_view text : absl::StrSplit(flags.flash, ',')) {
    ASSIGN_OR_RETURN(flash_speeds.emplace_back(),
                     ParseByteRate("--flash", {text.data(), text.size()}));
  }
  std::vector<uint64_t> drams;
  for (const absl::string_view text : absl::StrSplit(flags.dram, ',')) {
    ASSIGN_OR_RETURN(drams.emplace_back(),
                     ParseByteShare("--dram", {text.data(), text.size()}, model.total()));
  }
  std::vector<std::string> policies;
  if (trace.has_value()) policies = absl::StrSplit(flags.policies, ',');

  std::vector<SimulatedRow> rows;
  Progress progress("simulating", "replays");
  size_t done = 0;
  for (const uint64_t dram : drams) {
    const auto add = [&](SimulatedRow row, const SimulatedRow& dense) {
      row.times_dense = row.tokens_per_second / dense.tokens_per_second;
      rows.push_back(std::move(row));
    };
    std::vector<Replays> replays;
    for (const std::string& policy : policies) {
      ASSIGN_OR_RETURN(replays.emplace_back(), ReplayAll(*trace, model, dram, policy));
      progress.Update(++done, drams.size() * policies.size());
    }
    for (const double flash : flash_speeds) {
      device.flash_bytes_per_second = flash;
      const SimulatedRow dense = DenseRow(model, dram, device);
      add(dense, dense);
      for (size_t p = 0; p < policies.size(); ++p) {
        add(PrunedRow(replays[p], trace->tokens(), model, dram, device, policies[p]), dense);
      }
    }
  }
  if (done > 0) progress.Finish();
  if (!flags.csv.empty()) RETURN_IF_ERROR(WriteTextFile(flags.csv, SimulatedCsv(rows)));
  if (!flags.report.empty()) RETURN_IF_ERROR(WriteReport(flags, command, model, rows));
  if (!flags.json) {
    std::printf("%s\n%s", SizesText(model).c_str(), SimulatedTable(rows).c_str());
    return absl::OkStatus();
  }
  Json out = {{"static_bytes", model.static_bytes},
              {"kv_bytes", model.kv_bytes},
              {"mlp_bytes", model.mlp()},
              {"rows", Json::array()}};
  for (const SimulatedRow& row : rows) out["rows"].push_back(RowJson(row));
  std::printf("%s\n", out.dump(2).c_str());
  return absl::OkStatus();
}

}  // namespace

void AddSimulateCommand(CLI::App& app, CommandRun& run) {
  auto flags = std::make_shared<SimulateFlags>();
  CLI::App& command = AddSubcommand(
      app, "simulate", "Tokens per second of recorded masks on modelled machines",
      kSimulateExamples, [flags, &run](const CLI::App& named) {
        run = [flags, text = CommandText(named)] { return RunSimulate(*flags, text); };
      });
  AddTextFlag(command, "--shape", flags->shape,
              "a published model: phi-3-medium, phi-3-mini, llama-3-8b, mistral-7b");
  AddTextFlag(command, "--pack", flags->pack, "sizes from this pack instead");
  AddTextFlag(command, "--trace", flags->trace,
              "masks recorded by `tidegate eval --record`; without: dense only");
  AddRealFlag(command, "--bits", flags->bits, {0, 64, true}, "of every weight of a --shape");
  AddIntegerFlag(command, "--kv-tokens", flags->kv_tokens, {0, kMaxKvTokens},
                 "length of the key/value cache (f16)");
  AddTextFlag(command, "--dram", flags->dram, "amounts of DRAM: bytes, or percent of everything");
  AddTextFlag(command, "--flash", flags->flash, "speeds of flash");
  AddTextFlag(command, "--policies", flags->policies, "value, lfu, lru, none, belady");
  AddTextFlag(command, "--dram-speed", flags->dram_speed, "speed of DRAM");
  AddTextFlag(command, "--latency", flags->latency,
              "of flash, once per layer and kind that misses");
  AddTextFlag(command, "--iops", flags->reads_per_second,
              "reads per second of flash; 0: unlimited");
  AddSwitch(command, "--overlap", flags->overlap, "flash is read while DRAM is");
  AddSwitch(command, "--json", flags->json, "JSON on standard output");
  AddTextFlag(command, "--csv", flags->csv, "also write the rows to this file");
  AddFileFlag(command, "--report", flags->report,
              "write index.html, results.csv and plots into this folder");
}

}  // namespace tidegate
