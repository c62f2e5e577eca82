// `tidegate bench`: tokens per second, time to first token and flash traffic over memory budgets.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/flags.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/byte_values.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "engine/single_sequence.h"
#include "measure/report_folder.h"
#include "measure/token_ids.h"
#include "measure/usage_meter.h"
#include "packer/atomic_file.h"

namespace tidegate {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kEverything = "100%";
constexpr size_t kShownPathBytes = 4096;
constexpr uint64_t kMaxBenchTokens = 1 << 24;  // of each part of a run

constexpr const char* kBenchExamples = R"(Examples:
  tidegate bench model.tgpack
  tidegate bench model.tgpack --budgets 30%,50%,100% --modes dense,dip_ca --json result.json
  tidegate bench model.tgpack --budgets 50% --modes dip_ca --profile
  tidegate bench model.gguf --flash-model bandwidth=1GB/s,latency=80us,iops=200k

Store and engine run in this process. A budget in percent is a share of what the whole model
takes. Every row: a prompt is prefilled, --warm-up tokens are generated unmeasured, then --tokens
are measured; medians over --repeat runs in the same warm store. The prompt is made of fixed
pseudo-random ids: hit rates on real text differ. Compare rows of one run only. --ids FILE gives
the prompt and then every token to decode: the same work for every mode. The key/value cache that
a run needs is taken from the budget.
)";

struct BenchFlags {
  ModelFlags model;
  std::string budgets = "40%,55%,70%,100%";
  std::string modes = "dense,dip,dip_ca";
  uint32_t prompt_tokens = 32;
  uint32_t warm_up = 32;
  uint32_t tokens = 64;
  uint32_t repeat = 3;
  std::string ids_path;
  std::vector<TokenId> ids;  // what ids_path holds; empty: a made-up prompt, then greedy
  std::string json_path;
  bool profile = false;

  uint64_t AllTokens() const { return uint64_t{prompt_tokens} + warm_up + tokens; }
};

struct Row {
  std::string budget;
  uint64_t budget_bytes = 0;
  std::string mode;
  std::string error;  // not empty: the budget does not work
  double tokens_per_second = 0, first_token_seconds = 0, flash_bytes_per_token = 0,
         flash_reads_per_token = 0, stall_share = 0;
  double hit_rate = 0;                       // of all selected units
  double hit_rate_by_kind[kUnitKinds] = {};  // by UnitKind
  TokenUsage prefill, decode;                // medians over the runs
  double stage_seconds[kStages] = {};        // of one generated token, means over the runs
  uint64_t prefill_flash_bytes = 0;          // of one run
  uint64_t peak_rss_bytes = 0;
  uint64_t huge_page_bytes = 0;  // of the region
  double load_seconds = 0;
  std::string backend;
};

struct Sample {
  TokenUsage prefill, decode;
  double first_token_seconds = 0;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

TokenUsage Median(const std::vector<Sample>& samples, TokenUsage Sample::*phase) {
  const auto median = [&](double TokenUsage::*field) {
    std::vector<double> values;
    for (const Sample& sample : samples) values.push_back(sample.*phase.*field);
    return Median(std::move(values));
  };
  return {.tokens_per_second = median(&TokenUsage::tokens_per_second),
          .cpu_seconds = median(&TokenUsage::cpu_seconds),
          .disk_bytes = median(&TokenUsage::disk_bytes)};
}

std::vector<TokenId> Prompt(const BenchFlags& flags, uint32_t vocab) {
  const uint32_t count = flags.prompt_tokens;
  if (!flags.ids.empty()) return {flags.ids.begin(), flags.ids.begin() + count};
  std::vector<TokenId> ids;
  uint64_t state = 42;
  for (uint32_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;  // Knuth's MMIX generator
    ids.push_back(static_cast<TokenId>((state >> 33) % vocab));
  }
  return ids;
}

absl::StatusOr<Sample> RunOnce(LocalModel& local, const BenchFlags& flags, const RowPruning* step,
                               KvType kv_type, PassAccounts& prefill, PassAccounts& decode) {
  const ModelConfig& config = local.model().config;
  ASSIGN_OR_RETURN(const Precision precision, flags.model.ParsedPrecision());
  const auto context = static_cast<uint32_t>(flags.AllTokens());
  KvPool pool = KvPool::ForTokens(config, kv_type, context);
  KvCache kv(&pool, context);
  std::vector<float> logits(config.embedding_rows);
  const std::vector<TokenId> prompt = Prompt(flags, config.embedding_rows);
  const Usage start = UsageNow();
  RETURN_IF_ERROR(AppendPromptInChunks(local.decoder(), kv, prompt, local.chunk_tokens(), precision,
                                       logits, prefill));
  Sample sample;
  const Usage prefilled = UsageNow();
  sample.prefill = PerToken(start, prefilled, prompt.size());
  sample.first_token_seconds = prefilled.seconds - start.seconds;
  const auto next = [&] {
    if (!flags.ids.empty()) return flags.ids[kv.size()];
    return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  };
  PassAccounts ignored;
  for (uint32_t i = 0; i < flags.warm_up; ++i) {
    RETURN_IF_ERROR(AppendToken(local.decoder(), kv, next(), step, precision, logits, ignored));
  }
  const Usage measured = UsageNow();
  for (uint32_t i = 0; i < flags.tokens; ++i) {
    RETURN_IF_ERROR(AppendToken(local.decoder(), kv, next(), step, precision, logits, decode));
  }
  sample.decode = PerToken(measured, UsageNow(), flags.tokens);
  return sample;
}

absl::Status Measure(LocalModel& local, const BenchFlags& flags, Row& row) {
  ASSIGN_OR_RETURN(const std::optional<RowPruning> step, flags.model.Pruning(local.model().config));
  ASSIGN_OR_RETURN(const KvType kv_type, flags.model.ParsedKvType());
  RETURN_IF_ERROR(CheckTokenIds(flags.ids, local.model().config.embedding_rows));
  std::vector<Sample> samples;
  std::vector<double> firsts;
  PassAccounts prefill, decode;
  for (uint32_t i = 0; i < flags.repeat; ++i) {
    ASSIGN_OR_RETURN(const Sample sample,
                     RunOnce(local, flags, step ? &*step : nullptr, kv_type, prefill, decode));
    samples.push_back(sample);
    firsts.push_back(sample.first_token_seconds);
  }
  row.prefill = Median(samples, &Sample::prefill);
  row.decode = Median(samples, &Sample::decode);
  row.tokens_per_second = row.decode.tokens_per_second;
  row.first_token_seconds = Median(firsts);
  row.prefill_flash_bytes = prefill.flash_bytes / flags.repeat;
  row.peak_rss_bytes = UsageNow().peak_rss_bytes;
  const double tokens = static_cast<double>(flags.repeat) * flags.tokens;
  row.flash_bytes_per_token = static_cast<double>(decode.flash_bytes) / tokens;
  row.flash_reads_per_token = static_cast<double>(decode.flash_reads) / tokens;
  const auto rate = [](uint64_t hits, uint64_t misses) {
    return static_cast<double>(hits) / std::max(1.0, static_cast<double>(hits + misses));
  };
  row.hit_rate =
      rate(decode.hit_units[0] + decode.hit_units[1], decode.miss_units[0] + decode.miss_units[1]);
  for (size_t k = 0; k < kUnitKinds; ++k) {
    row.hit_rate_by_kind[k] = rate(decode.hit_units[k], decode.miss_units[k]);
  }
  row.stall_share = decode.times.seconds(Stage::kStalls) / (tokens / row.tokens_per_second);
  for (size_t i = 0; i < kStages; ++i) {
    row.stage_seconds[i] = decode.times.seconds(static_cast<Stage>(i)) / tokens;
  }
  row.huge_page_bytes = local.store().info().huge_page_bytes;
  row.backend = local.store().info().flash.backend;
  return absl::OkStatus();
}

// What the store takes with every unit resident, found by asking it.
absl::StatusOr<uint64_t> WholeBytes(const LocalModelOptions& options) {
  LocalModelOptions whole = options;
  whole.store.cache_fraction = 1.0;
  whole.store.staging_bytes = 0;  // The smallest: a budget chooses its own.
  ASSIGN_OR_RETURN(const auto local, LocalModel::Open(whole));
  return local->store().info().region_bytes + local->store().info().engine_reserve_bytes;
}

Json JsonRow(const Row& row) {
  if (!row.error.empty()) {
    return {{"budget", row.budget}, {"mode", row.mode}, {"error", "budget too small"}};
  }
  Json stages = Json::object();
  for (size_t i = 0; i < kStages; ++i) {
    stages[std::string(StageName(static_cast<Stage>(i)))] = row.stage_seconds[i];
  }
  return {{"budget", row.budget},
          {"budget_bytes", row.budget_bytes},
          {"mode", row.mode},
          {"tokens_per_second", row.tokens_per_second},
          {"first_token_seconds", row.first_token_seconds},
          {"flash_bytes_per_token", row.flash_bytes_per_token},
          {"flash_reads_per_token", row.flash_reads_per_token},
          {"hit_rate", row.hit_rate},
          {"input_hit_rate", row.hit_rate_by_kind[0]},
          {"hidden_hit_rate", row.hit_rate_by_kind[1]},
          {"stall_share", row.stall_share},
          {"backend", row.backend},
          {"cpu_seconds_per_token", row.decode.cpu_seconds},
          {"disk_bytes_per_token", row.decode.disk_bytes},
          {"prefill_tokens_per_second", row.prefill.tokens_per_second},
          {"prefill_cpu_seconds_per_token", row.prefill.cpu_seconds},
          {"prefill_disk_bytes_per_token", row.prefill.disk_bytes},
          {"prefill_flash_bytes", row.prefill_flash_bytes},
          {"load_seconds", row.load_seconds},
          {"huge_page_bytes", row.huge_page_bytes},
          {"peak_rss_bytes", row.peak_rss_bytes},
          {"stage_seconds", stages}};
}

void PrintRow(const Row& row) {
  if (!row.error.empty()) {
    std::printf("%-8s %-10s %-7s %s\n", row.budget.c_str(), FormatBytes(row.budget_bytes).c_str(),
                row.mode.c_str(), row.error.c_str());
    return;
  }
  std::printf("%-8s %-10s %-7s %10.2f %14s %16s %9.1f %% %7.1f %%\n", row.budget.c_str(),
              FormatBytes(row.budget_bytes).c_str(), row.mode.c_str(), row.tokens_per_second,
              FormatSeconds(row.first_token_seconds).c_str(),
              FormatBytes(static_cast<uint64_t>(row.flash_bytes_per_token)).c_str(),
              100 * row.hit_rate, 100 * row.stall_share);
  std::fflush(stdout);
}

// Where a generated token's time went, one line per stage with a bar.
void PrintProfile(const Row& row) {
  const double token = 1 / row.tokens_per_second;
  std::printf("  one token takes %s:\n", FormatSeconds(token).c_str());
  double told = 0;
  const auto print = [&](std::string_view name, double seconds) {
    const double share = seconds / token;
    std::printf("    %-12s %10s %6.1f %% %s\n", std::string(name).c_str(),
                FormatSeconds(seconds).c_str(), 100 * share,
                std::string(static_cast<size_t>(std::clamp(40 * share, 0.0, 40.0)), '#').c_str());
  };
  for (size_t i = 0; i < kStages; ++i) {
    print(StageName(static_cast<Stage>(i)), row.stage_seconds[i]);
    told += row.stage_seconds[i];
  }
  print("sampling", std::max(0.0, token - told));
  std::printf(
      "  hit rate of input units %.1f %%, of hidden units %.1f %%; %.0f flash reads of %s\n",
      100 * row.hit_rate_by_kind[0], 100 * row.hit_rate_by_kind[1], row.flash_reads_per_token,
      FormatBytes(static_cast<uint64_t>(row.flash_bytes_per_token /
                                        std::max(1.0, row.flash_reads_per_token)))
          .c_str());
  std::fflush(stdout);
}

absl::Status WriteJson(const std::string& path, const std::vector<Row>& rows,
                       const BenchFlags& flags) {
  Json result = {{"model", flags.model.model},
                 {"density", flags.model.density},
                 {"gamma", flags.model.gamma},
                 {"rows", Json::array()}};
  for (const Row& row : rows) result["rows"].push_back(JsonRow(row));
  // A path need not be UTF-8, and what is no number becomes null.
  return WriteTextFile(path, result.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

// Behind its context a model computes, but nothing that it was trained for.
absl::Status CheckBenchContext(const BenchFlags& flags) {
  ASSIGN_OR_RETURN(const store::v1::HyperParameters hp, HyperParametersOf(flags.model.model));
  if (flags.AllTokens() <= hp.context_length()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--prompt-tokens, --warm-up and --tokens, ", flags.AllTokens(),
      " together, exceed the context of ", hp.context_length(), " that the model was trained for"));
}

absl::Status CheckBenchFlags(const BenchFlags& flags) {
  if (!flags.ids_path.empty() && flags.ids.size() < flags.AllTokens()) {
    return absl::InvalidArgumentError(
        absl::StrCat(flags.ids_path, " has ", flags.ids.size(), " token ids; --prompt-tokens, ",
                     "--warm-up and --tokens need ", flags.AllTokens()));
  }
  return absl::OkStatus();
}

// Opens a model of its own for the row: every row begins with the same cold cache.
absl::Status FillRow(LocalModelOptions options, const BenchFlags& flags, Row& row) {
  options.store.cache_fraction.reset();
  options.store.staging_bytes = 0;
  if (row.budget == kEverything) {
    options.store.cache_fraction = 1.0;  // A budget would give staging what the last slots need.
  } else {
    options.store.memory_budget_bytes = row.budget_bytes;
  }
  const Usage start = UsageNow();
  const auto local = LocalModel::Open(options);
  if (absl::IsResourceExhausted(local.status())) {
    row.error = std::string(local.status().message());
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(local.status());
  row.load_seconds = UsageNow().seconds - start.seconds;
  return Measure(**local, flags, row);
}

absl::Status RunBench(BenchFlags flags) {
  if (!flags.ids_path.empty()) {
    ASSIGN_OR_RETURN(flags.ids, ReadTokenIds(flags.ids_path));
  }
  RETURN_IF_ERROR(CheckBenchFlags(flags));
  RETURN_IF_ERROR(CheckBenchContext(flags));
  if (!flags.json_path.empty()) {
    RETURN_IF_ERROR(RefuseToReplace({{flags.model.model, flags.ids_path}}, flags.json_path));
    // Whether it can be written, before the work.
    RETURN_IF_ERROR(AtomicFile::Create(flags.json_path).status());
  }
  ASSIGN_OR_RETURN(LocalModelOptions options, flags.model.LocalOptions());
  options.kv_tokens = flags.AllTokens();
  uint64_t whole = 0;
  std::printf("model %s", Printable(flags.model.model, kShownPathBytes).c_str());
  if (absl::StrContains(flags.budgets, '%')) {
    ASSIGN_OR_RETURN(whole, WholeBytes(options));
    std::printf(", everything resident takes %s", FormatBytes(whole).c_str());
  }
  std::printf("; density %g, gamma %g\n", flags.model.density, flags.model.gamma);
  std::printf("%-8s %-10s %-7s %10s %14s %16s %11s %9s\n", "budget", "bytes", "mode", "tokens/s",
              "first token", "flash/token", "hit rate", "stalled");
  std::vector<Row> rows;
  const std::vector<std::string> budgets =
      absl::StrSplit(flags.budgets, ',', absl::SkipWhitespace());
  const std::vector<std::string> modes = absl::StrSplit(flags.modes, ',', absl::SkipWhitespace());
  for (const std::string& budget : budgets) {
    for (const std::string& mode : modes) {
      BenchFlags one = flags;
      one.model.mode = mode;
      Row row;
      row.budget = budget;
      row.mode = mode;
      ASSIGN_OR_RETURN(row.budget_bytes, ParseByteShare("--budgets", budget, whole));
      RETURN_IF_ERROR(FillRow(options, one, row));
      PrintRow(row);
      if (flags.profile && row.error.empty()) PrintProfile(row);
      rows.push_back(std::move(row));
    }
  }
  return flags.json_path.empty() ? absl::OkStatus() : WriteJson(flags.json_path, rows, flags);
}

}  // namespace

void AddBenchCommand(CLI::App& app, CommandRun& run) {
  auto flags = std::make_shared<BenchFlags>();
  flags->model.density = 0.75;
  flags->model.gamma = 0.2;
  flags->model.kv = "f16";
  CLI::App& command =
      AddSubcommand(app, "bench", "Speed and flash traffic over memory budgets", kBenchExamples,
                    [flags, &run](const CLI::App&) { run = [flags] { return RunBench(*flags); }; });
  flags->model.RegisterWithoutPoint(command);
  flags->model.RegisterDensityAndGamma(command);
  AddTextFlag(command, "--budgets", flags->budgets, "memory budgets, comma-separated");
  AddTextFlag(command, "--modes", flags->modes, "modes, comma-separated");
  AddIntegerFlag(command, "--prompt-tokens", flags->prompt_tokens, {1, kMaxBenchTokens},
                 "length of the prompt");
  AddIntegerFlag(command, "--warm-up", flags->warm_up, {0, kMaxBenchTokens},
                 "generated tokens before measuring");
  AddIntegerFlag(command, "--tokens", flags->tokens, {1, kMaxBenchTokens},
                 "measured tokens per run");
  AddIntegerFlag(command, "--repeat", flags->repeat, {1, 1000}, "runs; medians are printed");
  AddTextFlag(command, "--ids", flags->ids_path,
              "file of token ids: the prompt, then what follows");
  AddSwitch(command, "--profile", flags->profile,
            "also print where a token's time goes: attention, masks, leases, stalls, ...");
  AddTextFlag(command, "--json", flags->json_path, "also write the rows to this file");
}

}  // namespace tidegate
