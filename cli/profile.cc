// `tidegate profile`: finds the operating points of a model for a given memory and writes them
// into a profile.
#include "proto/store/v1/profile.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/flags.h"
#include "base/progress.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/model_flags.h"
#include "measure/layer_sensitivity.h"
#include "measure/point_meter.h"
#include "measure/report_folder.h"
#include "measure/text_score.h"
#include "packer/atomic_file.h"

namespace tidegate {
namespace {

constexpr const char* kProfileExamples = R"(Examples:
  tidegate profile model.tgpack --text t.txt --memory-budget 4GiB -o profile.json
  tidegate profile models/stories-7M.f16.gguf --text models/tinystories-heldout.txt \
    --cache-fraction 0.5 --max-perplexity-increase 0.1 -o profile.json
  tidegate pack models/stories-7M.f16.gguf --profile profile.json
  tidegate-engine --max-perplexity-increase 0.02

Measures densities, gammas and protected shares with the store and the engine that serve, the
memory that they will have, and every token pruned as if it were generated. Keeps those points
that no other beats in both perplexity and bytes read per token. Candidates are compared on the
start of the text; the numbers written are those of the tokens behind it, which had no say. The
text should be like what will be served, documents separated by <|endoftext|>. It also measures
what pruning each layer alone costs, and tries the densities by layer that follow; where they are
not better, every layer has the same. The same text gives the same profile but for the last
digits. A pack is measured as it is, a GGUF file or folder as `tidegate pack` would write it.
)";

constexpr double kLeastShare = 0.01;  // of densities and parts of the cache to try

constexpr size_t kShownProfilePathBytes = 4096;

struct ProfileFlags {
  ModelFlags model;
  std::string text, out;      // paths
  std::string memory_budget;  // bytes; empty: not given
  std::optional<double> cache_fraction;
  double max_increase = 0.1;
  std::vector<double> densities = {0.9, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.3, 0.2};
  std::vector<double> gammas = {0.2, 0.5};
  std::vector<double> protected_shares = {0.75, 0.5};
  std::vector<double> input_shares = {0.5, 0.8, 0.9};
  uint32_t points = 8;
  uint32_t chunk = 256;
  uint64_t search_tokens = 2048, final_tokens = 4096;
  bool no_layers = false;
};

absl::Status CheckProfileTokens(const char* flag, uint64_t tokens, uint32_t chunk) {
  if (tokens >= chunk) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", tokens, " is less than a --chunk of ",
                                                 chunk, "; whole chunks are measured"));
}

absl::Status CheckProfileFlags(const ProfileFlags& flags) {
  if (flags.memory_budget.empty() == !flags.cache_fraction.has_value()) {
    return absl::InvalidArgumentError(
        "give the memory to measure for in one way: --memory-budget 4GiB as for tidegate-store, "
        "or --cache-fraction 0.5 of the streamed weights");
  }
  if (flags.model.input_share.value_or(1) < kLeastShare) {
    return absl::InvalidArgumentError(
        absl::StrCat("--input-share ", *flags.model.input_share, " is less than ", kLeastShare));
  }
  RETURN_IF_ERROR(CheckProfileTokens("--search-tokens", flags.search_tokens, flags.chunk));
  RETURN_IF_ERROR(CheckProfileTokens("--final-tokens", flags.final_tokens, flags.chunk));
  const std::string inputs[] = {flags.model.model, flags.text};
  return RefuseToReplace(inputs, flags.out);
}

absl::StatusOr<LocalModelOptions> ProfileOptionsOf(const ProfileFlags& flags) {
  ASSIGN_OR_RETURN(LocalModelOptions options, flags.model.LocalOptions());
  options.store.cache_fraction = flags.cache_fraction;
  if (flags.memory_budget.empty()) return options;
  const auto bytes = ParseBytes(flags.memory_budget);
  if (!bytes.ok()) return Annotate(bytes.status(), "--memory-budget");
  options.store.memory_budget_bytes = *bytes;
  options.store.staging_bytes = 0;  // chosen from the budget, as the daemon does
  return options;
}

absl::StatusOr<ProfileTasks> TasksOf(const ProfileFlags& flags,
                                     const std::vector<TokenId>& tokens) {
  const auto split = SplitTokens(tokens, flags.chunk, flags.search_tokens, flags.final_tokens);
  if (!split.ok()) return Annotate(split.status(), flags.text);
  ProfileTasks tasks = *split;
  ASSIGN_OR_RETURN(tasks.search.kv_type, flags.model.ParsedKvType());
  ASSIGN_OR_RETURN(tasks.search.precision, flags.model.ParsedPrecision());
  tasks.final.kv_type = tasks.search.kv_type;
  tasks.final.precision = tasks.search.precision;
  return tasks;
}

absl::StatusOr<std::vector<LayerCost>> LayerCosts(PointMeter& meter, const EvalTask& task) {
  ASSIGN_OR_RETURN(const auto local, meter.Open());
  const uint64_t all = LayerTokens(local->model().config, task);
  Progress progress("layers", "tokens");
  return MeasureLayers(*local, task, [&](uint64_t done) {
    progress.Update(done, all);
    return absl::OkStatus();
  });
}

// What is measured, without digits that change from run to run.
double Rounded(double value) { return std::round(value * 1e5) / 1e5; }

void FillPoint(const MeasuredPoint& from, store::v1::OperatingPoint& to) {
  to.set_density(from.candidate.density);
  to.set_gamma(from.candidate.gamma);
  to.set_protected_share(from.candidate.protected_share);
  for (const double d : from.candidate.layer_densities) to.add_layer_densities(Rounded(d));
  to.set_perplexity_increase(Rounded(from.perplexity_increase));
  to.set_flash_bytes_per_token(std::round(from.flash_bytes));
  to.set_flash_share(Rounded(from.flash_share));
  to.set_hit_rate(Rounded(from.hit_rate));
}

void PrintLadder(const store::v1::Profile& profile) {
  std::printf("%5s  %7s  %5s  %9s  %8s  %10s  %8s  %13s  %6s\n", "point", "density", "gamma",
              "protected", "by layer", "perplexity", "hit rate", "flash/token", "share");
  for (int i = 0; i < profile.ladder_size(); ++i) {
    const store::v1::OperatingPoint& p = profile.ladder(i);
    const bool dense = p.density() >= 1;
    std::printf("%5d  %7.3g  %5s  %9s  %8s  %+8.2f %%  %6.1f %%  %13s  %6.4f\n", i, p.density(),
                dense ? "-" : absl::StrFormat("%.3g", p.gamma()).c_str(),
                dense ? "-" : absl::StrFormat("%.3g", p.protected_share()).c_str(),
                p.layer_densities_size() > 0 ? "yes" : "no", 100 * p.perplexity_increase(),
                100 * p.hit_rate(), FormatBytes(uint64_t(p.flash_bytes_per_token())).c_str(),
                p.flash_share());
  }
}

// What became of densities by layer.
void PrintTrials(std::span<const LayerTrial> trials) {
  if (trials.empty()) return;
  std::printf("\ndensities by layer, on the tokens of the search:\n");
  for (const LayerTrial& trial : trials) {
    const MeasuredPoint &a = trial.uniform, &b = trial.by_layer;
    std::string densities;
    for (const double density : b.candidate.layer_densities) {
      absl::StrAppendFormat(&densities, " %.2f", density);
    }
    std::printf("  density %.3g gamma %.3g: %+.2f %% at %.4f, by layer %+.2f %% at %.4f (%s)\n",
                a.candidate.density, a.candidate.gamma, 100 * a.perplexity_increase, a.flash_share,
                100 * b.perplexity_increase, b.flash_share, densities.substr(1).c_str());
  }
}

// A division of the slots, and what it reads at equal loss: 0.9 is a tenth less than evenly.
struct ShareTrial {
  double share;
  double bytes;
};

// What became of divisions of the slots.
void PrintShares(std::span<const ShareTrial> trials, double chosen) {
  if (trials.empty()) return;
  std::printf("\nbytes at equal loss, by the part of the slots that input units have:");
  for (const ShareTrial& trial : trials) {
    std::printf("  %.3g: %+.1f %%", trial.share, 100 * (trial.bytes - 1));
  }
  std::printf("; %s\n", chosen > 0 ? absl::StrFormat("%.3g is taken", chosen).c_str()
                                   : "none is taken, every kind has the same part cached");
}

store::v1::Profile ProfileOf(const ProfileFlags& flags, const PointMeter& meter,
                             const ProfileTasks& tasks, std::span<const MeasuredPoint> ladder) {
  store::v1::Profile profile = meter.ProfileHead();
  store::v1::ProfileConditions& conditions = *profile.mutable_conditions();
  conditions.set_text(std::filesystem::path(flags.text).filename().string());
  conditions.set_search_tokens(tasks.search.all_tokens());
  conditions.set_final_tokens(tasks.final.all_tokens());
  conditions.set_policy(flags.model.policy);
  for (const MeasuredPoint& point : ladder) FillPoint(point, *profile.add_ladder());
  return profile;
}

// Measures the points of the search with other divisions of the slots and leaves the meter with the
// one that reads clearly least.
absl::StatusOr<std::vector<ShareTrial>> ChooseInputShare(const ProfileFlags& flags,
                                                         PointMeter& meter,
                                                         const MeasuredPoint& dense,
                                                         std::span<const MeasuredPoint> front) {
  constexpr double kLeastGain = 0.03;  // Less is chance with the default number of tokens.
  std::vector<ShareTrial> trials;
  if (front.empty() || flags.model.input_share) return trials;
  std::vector<MeasuredPoint> even(front.begin(), front.end());
  even.push_back(dense);
  std::optional<double> best;
  double least = 1 - kLeastGain;
  for (const double share : flags.input_shares) {
    meter.UseInputShare(share);
    std::vector<MeasuredPoint> points = {dense};
    for (const MeasuredPoint& point : front) {
      ASSIGN_OR_RETURN(points.emplace_back(), meter.Measure(point.candidate));
    }
    trials.push_back({share, std::exp(MeanLogBytes(points, front) - MeanLogBytes(even, front))});
    if (trials.back().bytes > least) continue;
    least = trials.back().bytes;
    best = share;
  }
  meter.UseInputShare(best);
  return trials;
}

// The points of the search, measured on tokens that had no say, and lossless streaming.
absl::StatusOr<std::vector<MeasuredPoint>> FinalLadder(const ProfileFlags& flags, PointMeter& meter,
                                                       const EvalTask& task,
                                                       const MeasuredPoint& dense,
                                                       std::span<const MeasuredPoint> front) {
  RETURN_IF_ERROR(meter.Begin(task));
  std::vector<MeasuredPoint> points;
  for (const MeasuredPoint& candidate : front) {
    ASSIGN_OR_RETURN(MeasuredPoint point, meter.Measure(candidate.candidate));
    // Less than nothing is chance.
    point.perplexity_increase = std::max(0.0, point.perplexity_increase);
    if (point.perplexity_increase > flags.max_increase) continue;
    if (point.flash_bytes < dense.flash_bytes) points.push_back(std::move(point));
  }
  std::vector<MeasuredPoint> ladder = ParetoPoints(points);
  ladder.insert(ladder.begin(), dense);
  return ladder;
}

absl::Status RunProfile(const ProfileFlags& flags) {
  RETURN_IF_ERROR(CheckProfileFlags(flags));
  RETURN_IF_ERROR(
      AtomicFile::Create(flags.out).status());  // Whether it can be written, before the work.
  ASSIGN_OR_RETURN(const LocalModelOptions options, ProfileOptionsOf(flags));
  ASSIGN_OR_RETURN(const std::vector<TokenId> tokens, TokensOfText(flags.text, flags.model.model));
  ASSIGN_OR_RETURN(const ProfileTasks tasks, TasksOf(flags, tokens));
  // What can be wrong is said before a long packing.
  ASSIGN_OR_RETURN(const store::v1::HyperParameters hp, HyperParametersOf(flags.model.model));
  RETURN_IF_ERROR(CheckTasks(tasks, hp));
  ASSIGN_OR_RETURN(PointMeter meter, PointMeter::Create(options));
  ASSIGN_OR_RETURN(MeasuredPoint dense, meter.MeasureDense(tasks.final));
  if (dense.flash_bytes <= 0) {
    return absl::InvalidArgumentError(
        "this memory holds every weight: nothing is read while decoding, and there is nothing to "
        "trade accuracy for; measure for less memory");
  }
  PointSearch search = {.densities = flags.densities,
                        .gammas = flags.gammas,
                        .protected_shares = flags.protected_shares,
                        .max_increase = flags.max_increase,
                        .points = flags.points,
                        .layer_densities = nullptr};
  std::sort(search.densities.rbegin(), search.densities.rend());
  std::vector<LayerCost> costs;
  if (!flags.no_layers) {
    ASSIGN_OR_RETURN(costs, LayerCosts(meter, tasks.search));
    search.layer_densities = [&costs](double mean) {
      return AllocateDensities(costs, mean, std::min(mean, 0.1));
    };
  }
  Progress progress("points", "tokens");
  const size_t planned = SearchCalls(search) + 1 + flags.input_shares.size() * search.points;
  meter.Plan(&progress,
             planned * tasks.search.all_tokens() + (search.points + 1) * tasks.final.all_tokens());
  RETURN_IF_ERROR(meter.Begin(tasks.search));
  ASSIGN_OR_RETURN(const FoundPoints found,
                   SearchPoints(
                       search, [&](const Candidate& c) { return meter.Measure(c); },
                       [&](size_t calls) { meter.Skip(calls * tasks.search.all_tokens()); }));
  const size_t unused = search.points - found.front.size();
  ASSIGN_OR_RETURN(const std::vector<ShareTrial> shares,
                   ChooseInputShare(flags, meter, dense, found.front));
  ASSIGN_OR_RETURN(dense, meter.MeasureDense(tasks.final));  // With the slots as they are now.
  meter.Skip(unused * tasks.final.all_tokens() +
             (flags.input_shares.size() * search.points - shares.size() * found.front.size()) *
                 tasks.search.all_tokens());
  ASSIGN_OR_RETURN(const std::vector<MeasuredPoint> ladder,
                   FinalLadder(flags, meter, tasks.final, dense, found.front));
  progress.Finish();
  const store::v1::Profile profile = ProfileOf(flags, meter, tasks, ladder);
  RETURN_IF_ERROR(CheckProfile(profile));
  RETURN_IF_ERROR(WriteTextFile(flags.out, ProfileText(profile)));
  PrintLadder(profile);
  PrintTrials(found.trials);
  PrintShares(shares, profile.conditions().input_share());
  if (ladder.size() == 1) {
    std::printf(
        "\nNo pruned point stayed within --max-perplexity-increase %g: the profile has "
        "nothing to choose from.\nAllow more, or try other densities and gammas.\n",
        flags.max_increase);
  }
  std::printf(
      "\n%s: perplexity %.4f with nothing pruned, of %llu tokens; %.1f %% of the streamed "
      "weights in memory\n",
      Printable(flags.out, kShownProfilePathBytes).c_str(), profile.conditions().perplexity(),
      static_cast<unsigned long long>(profile.conditions().final_tokens()),
      100 * profile.conditions().cache_share());
  return absl::OkStatus();
}

void AddListFlags(CLI::App& command, ProfileFlags& flags) {
  AddRealListFlag(command, "--density", flags.densities, {kLeastShare, 1},
                  "list of shares of MLP weights to try, [0.01, 1]");
  AddRealListFlag(command, "--gamma", flags.gammas, {0, 1},
                  "list of score factors of units that are not resident, [0, 1]");
  AddRealListFlag(command, "--protected-share", flags.protected_shares, {0, 1},
                  "list of parts of a mask that gamma spares, [0, 1]; all but the first are tried "
                  "around the best points only");
  AddRealListFlag(command, "--try-input-share", flags.input_shares, {kLeastShare, 1},
                  "list of parts of the cache's bytes for input units, [0.01, 1]: what reads least "
                  "at equal loss goes into the profile. Not with --input-share");
  AddIntegerFlag(command, "--points", flags.points, {2, kMaxLadderPoints - 1},
                 "points in the profile at most, besides no pruning");
  AddSwitch(command, "--uniform", flags.no_layers, "the same density in every layer; saves time");
}

}  // namespace

void AddProfileCommand(CLI::App& app, CommandRun& run) {
  auto flags = std::make_shared<ProfileFlags>();
  CLI::App& command = AddSubcommand(
      app, "profile", "Measure how far a model may be pruned, for tidegate-engine to choose from",
      kProfileExamples,
      [flags, &run](const CLI::App&) { run = [flags] { return RunProfile(*flags); }; });
  flags->model.RegisterWithoutPruning(command);
  AddFileFlag(command, "--text", flags->text, "text file; documents separated by <|endoftext|>")
      .Required();
  AddFileFlag(command, "-o,--out", flags->out, "the profile to write (JSON)").Required();
  AddTextFlag(command, "--memory-budget", flags->memory_budget,
              "memory of the store, as its own flag, e.g. 4GiB");
  AddRealFlag(command, "--cache-fraction", flags->cache_fraction, {0, 1},
              "instead: share of the streamed weights that the cache holds, [0, 1]");
  AddRealFlag(command, "--max-perplexity-increase", flags->max_increase, {0, 1e6, true},
              "loss of the fastest point at most, a share: 0.05 is 5 %");
  AddListFlags(command, *flags);
  AddIntegerFlag(command, "--search-tokens", flags->search_tokens, {0, kMaxTextTokens},
                 "tokens to compare candidates on, whole chunks of at most half of the text");
  AddIntegerFlag(command, "--final-tokens", flags->final_tokens, {0, kMaxTextTokens},
                 "tokens behind these, whole chunks, for the numbers of the profile");
  AddIntegerFlag(command, "--chunk", flags->chunk, {16, kMaxChunkTokens},
                 "tokens per chunk, each with an empty KV cache");
}

}  // namespace tidegate
