// `tidegate bench`: tokens per second, time to first token and flash traffic over memory budgets.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/model_flags.h"

namespace tidegate {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kExamples =
    "Examples:\n"
    "  tidegate bench model.tgpack\n"
    "  tidegate bench model.tgpack --budgets 30%,50%,100% --modes dense,dip_ca --json result.json\n"
    "  tidegate bench model.gguf --flash-model bandwidth=1GB/s,latency=80us,iops=200k\n\n"
    "Store and engine run in this process. A budget in percent is a share of what the whole model "
    "takes.\n"
    "Every row: a prompt is prefilled, --warm-up tokens are generated unmeasured, then --tokens "
    "are\n"
    "measured; medians over --repeat runs in the same warm store. The prompt is made of fixed\n"
    "pseudo-random ids: hit rates on real text differ. Compare rows of one run only.\n";

struct Flags {
  ModelFlags model;
  std::string budgets = "40%,55%,70%,100%";
  std::string modes = "dense,dip,dip_ca";
  uint32_t prompt_tokens = 32;
  uint32_t warm_up = 32;
  uint32_t tokens = 64;
  uint32_t repeat = 3;
  std::string json_path;
};

struct Row {
  std::string budget;
  uint64_t budget_bytes = 0;
  std::string mode;
  std::string error;  // not empty: the budget does not work
  double tokens_per_second = 0, first_token_seconds = 0, flash_bytes_per_token = 0, hit_rate = 0,
         stall_share = 0;
  std::string backend;
};

struct Sample {
  double tokens_per_second, first_token_seconds;
};

double Seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

std::vector<TokenId> Prompt(uint32_t count, uint32_t vocab) {
  std::vector<TokenId> ids;
  uint64_t state = 42;
  for (uint32_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;  // Knuth's MMIX generator
    ids.push_back(static_cast<TokenId>((state >> 33) % vocab));
  }
  return ids;
}

absl::StatusOr<Sample> RunOnce(LocalModel& local, const Flags& flags, const PruneStep* step,
                               bool half, MlpAccounts& decode) {
  const ModelConfig& config = local.model().config;
  ASSIGN_OR_RETURN(const Precision precision, flags.model.PrefillPrecision());
  KvCache kv(config, flags.prompt_tokens + flags.warm_up + flags.tokens, half);
  std::vector<float> logits(config.vocab_size);
  const std::vector<TokenId> prompt = Prompt(flags.prompt_tokens, config.vocab_size);
  MlpAccounts ignored;
  const auto start = Clock::now();
  for (size_t at = 0; at < prompt.size(); at = kv.size()) {
    const size_t count = local.decoder().PieceTokens(prompt.size() - at);
    RETURN_IF_ERROR(
        local.decoder().Prefill(kv, {prompt.data() + at, count}, precision, logits, ignored));
  }
  Sample sample = {};
  sample.first_token_seconds = Seconds(Clock::now() - start);
  const auto next = [&] {
    return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  };
  for (uint32_t i = 0; i < flags.warm_up; ++i) {
    RETURN_IF_ERROR(local.decoder().Step(kv, next(), step, logits, ignored));
  }
  const auto measured = Clock::now();
  for (uint32_t i = 0; i < flags.tokens; ++i) {
    RETURN_IF_ERROR(local.decoder().Step(kv, next(), step, logits, decode));
  }
  sample.tokens_per_second = flags.tokens / Seconds(Clock::now() - measured);
  return sample;
}

absl::Status Measure(LocalModel& local, const Flags& flags, Row& row) {
  ASSIGN_OR_RETURN(const std::optional<PruneStep> step, flags.model.Step(local.model().config));
  ASSIGN_OR_RETURN(const bool half, flags.model.HalfKv());
  std::vector<double> speeds, firsts;
  MlpAccounts decode;
  for (uint32_t i = 0; i < flags.repeat; ++i) {
    ASSIGN_OR_RETURN(const Sample sample,
                     RunOnce(local, flags, step ? &*step : nullptr, half, decode));
    speeds.push_back(sample.tokens_per_second);
    firsts.push_back(sample.first_token_seconds);
  }
  row.tokens_per_second = Median(speeds);
  row.first_token_seconds = Median(firsts);
  const double tokens = static_cast<double>(flags.repeat) * flags.tokens;
  row.flash_bytes_per_token = static_cast<double>(decode.flash_bytes) / tokens;
  const double hits = static_cast<double>(decode.hit_units[0] + decode.hit_units[1]);
  const double misses = static_cast<double>(decode.miss_units[0] + decode.miss_units[1]);
  row.hit_rate = hits / std::max(1.0, hits + misses);
  row.stall_share = decode.stall_seconds / (tokens / row.tokens_per_second);
  row.backend = local.store().info().flash.backend;
  return absl::OkStatus();
}

// Bytes of "1GiB", or of "50%" of what everything resident takes.
absl::StatusOr<uint64_t> BudgetBytes(const std::string& text, uint64_t whole) {
  double percent = 0;
  if (absl::EndsWith(text, "%")) {
    if (!absl::SimpleAtod(text.substr(0, text.size() - 1), &percent) || percent <= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--budgets: '", text, "' is not a percentage"));
    }
    return static_cast<uint64_t>(static_cast<double>(whole) * percent / 100);
  }
  return ParseBytes(text);
}

// What the store takes with every unit resident, found by asking it.
absl::StatusOr<uint64_t> WholeBytes(const LocalModelOptions& options) {
  LocalModelOptions whole = options;
  whole.store.cache_fraction = 1.0;
  whole.store.staging_bytes = 0;  // The smallest: a budget chooses its own.
  ASSIGN_OR_RETURN(const auto local, LocalModel::Open(whole));
  return local->store().info().region_bytes + local->store().info().engine_reserve_bytes;
}

std::string JsonRow(const Row& row) {
  if (!row.error.empty()) {
    return absl::StrFormat(
        "{\"budget\": \"%s\", \"mode\": \"%s\", \"error\": \"budget too small\"}", row.budget,
        row.mode);
  }
  return absl::StrFormat(
      "{\"budget\": \"%s\", \"budget_bytes\": %d, \"mode\": \"%s\", \"tokens_per_second\": %.3f, "
      "\"first_token_seconds\": %.6f, \"flash_bytes_per_token\": %.0f, \"hit_rate\": %.4f, "
      "\"stall_share\": %.4f, \"backend\": \"%s\"}",
      row.budget, row.budget_bytes, row.mode, row.tokens_per_second, row.first_token_seconds,
      row.flash_bytes_per_token, row.hit_rate, row.stall_share, row.backend);
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

absl::Status WriteJson(const std::string& path, const std::vector<Row>& rows, const Flags& flags) {
  std::ofstream out(path);
  out << absl::StrFormat(
      "{\"model\": \"%s\", \"density\": %g, \"gamma\": %g, \"rows\": [\n  %s\n]}\n",
      flags.model.model, flags.model.density, flags.model.gamma,
      absl::StrJoin(rows, ",\n  ",
                    [](std::string* text, const Row& row) { text->append(JsonRow(row)); }));
  out.close();
  if (!out.good()) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

absl::Status Run(const Flags& flags) {
  if (flags.repeat == 0 || flags.tokens == 0 || flags.prompt_tokens == 0) {
    return absl::InvalidArgumentError("--repeat, --tokens and --prompt-tokens must be at least 1");
  }
  ASSIGN_OR_RETURN(LocalModelOptions options, flags.model.LocalOptions());
  ASSIGN_OR_RETURN(const uint64_t whole, WholeBytes(options));
  std::printf("model %s, everything resident takes %s; density %g, gamma %g\n",
              flags.model.model.c_str(), FormatBytes(whole).c_str(), flags.model.density,
              flags.model.gamma);
  std::printf("%-8s %-10s %-7s %10s %14s %16s %11s %9s\n", "budget", "bytes", "mode", "tokens/s",
              "first token", "flash/token", "hit rate", "stalled");
  std::vector<Row> rows;
  const std::vector<std::string> budgets =
      absl::StrSplit(flags.budgets, ',', absl::SkipWhitespace());
  const std::vector<std::string> modes = absl::StrSplit(flags.modes, ',', absl::SkipWhitespace());
  for (const std::string& budget : budgets) {
    for (const std::string& mode : modes) {
      Flags one = flags;
      one.model.mode = mode;
      Row row;
      row.budget = budget;
      row.mode = mode;
      ASSIGN_OR_RETURN(row.budget_bytes, BudgetBytes(budget, whole));
      options.store.cache_fraction.reset();
      options.store.staging_bytes = 0;
      options.store.memory_budget_bytes = row.budget_bytes;
      const auto local = LocalModel::Open(options);
      if (absl::IsResourceExhausted(local.status())) {
        row.error = std::string(local.status().message());
      } else {
        RETURN_IF_ERROR(local.status());
        RETURN_IF_ERROR(Measure(**local, one, row));
      }
      PrintRow(row);
      rows.push_back(std::move(row));
    }
  }
  return flags.json_path.empty() ? absl::OkStatus() : WriteJson(flags.json_path, rows, flags);
}

}  // namespace

void AddBenchCommand(CLI::App& app, CommandRun& run) {
  auto flags = std::make_shared<Flags>();
  flags->model.density = 0.75;
  flags->model.gamma = 0.2;
  flags->model.kv = "f16";
  CLI::App* command = app.add_subcommand("bench", "Speed and flash traffic over memory budgets");
  flags->model.Register(*command);
  command->remove_option(command->get_option("--mode"));
  command->remove_option(command->get_option("--cache-fraction"));
  command->add_option("--budgets", flags->budgets, "memory budgets, comma-separated")
      ->capture_default_str();
  command->add_option("--modes", flags->modes, "modes, comma-separated")->capture_default_str();
  command->add_option("--prompt-tokens", flags->prompt_tokens, "length of the prompt")
      ->capture_default_str();
  command->add_option("--warm-up", flags->warm_up, "generated tokens before measuring")
      ->capture_default_str();
  command->add_option("--tokens", flags->tokens, "measured tokens per run")->capture_default_str();
  command->add_option("--repeat", flags->repeat, "runs; medians are printed")
      ->capture_default_str();
  command->add_option("--json", flags->json_path, "also write the rows to this file");
  command->footer(kExamples);
  command->callback([flags, &run] { run = [flags] { return Run(*flags); }; });
}

}  // namespace tidegate
